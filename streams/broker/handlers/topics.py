"""Topics on the wire: create, delete, enlarge, describe, delete records; and the metadata of the one broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.core import NODE_ID, Caller, Core
from streams.broker.folder import valid_name
from streams.broker.handlers.absent import FOR_TRANSACTIONS, NO_TRANSACTIONS, named
from streams.broker.protocol import Fields, Refused
from streams.broker.registry import DEFAULTS, MAX_PARTITIONS, TopicRow, parsed

TOPIC_ID: Final = "esper.topic.id"
"""A topic's id, described as a setting of it to whoever asks for it by this name: clients of Metadata below version 10
see no other. A topic that is deleted and made again has another."""
_TOPIC: Final = 2
_BROKER: Final = 4
_BROKER_CONFIGS: Final = {"auto.create.topics.enable": "false", "default.replication.factor": "1"}
_SET_ON_TOPIC: Final = 1
_DEFAULT: Final = 5
_GROUP: Final = 0
_SET: Final = 0
_UNSET: Final = 1


def _outcome(core: Core, action: Callable[[], object]) -> Fields:
    """Runs one admin action; its error code and message."""
    try:
        action()
    except Refused as refused:
        return {"error_code": refused.code, "error_message": refused.why}
    except (OSError, sqlite3.Error) as error:
        core.complain(Refused(ErrorCode.kafka_storage_error, f"the disk refuses: {error}"))
        return {"error_code": ErrorCode.kafka_storage_error, "error_message": str(error)}
    return {"error_code": ErrorCode.none, "error_message": None}


def create_topics(core: Core, _caller: Caller, request: Any) -> Fields:
    """Creates topics, each by itself."""
    topics = []
    for topic in request.topics:
        outcome = _outcome(core, partial(_create, core, topic, validate_only=request.validate_only))
        topics.append({"name": topic.name} | outcome)
    return {"topics": topics}


def _create(core: Core, topic: Any, *, validate_only: bool) -> None:
    if not valid_name(topic.name):
        why = f"topic name {topic.name[:64]!r}: 1 to 249 letters, digits, dots, dashes and underscores"
        raise Refused(ErrorCode.invalid_topic_exception, why)
    if topic.name in core.store.topics:
        raise Refused(ErrorCode.topic_already_exists, f"topic {topic.name} exists")
    count = _assigned(topic) if topic.assignments else topic.num_partitions
    count = 1 if count == -1 else count
    _check_count(count)
    if topic.replication_factor not in {-1, 1}:
        why = f"replication factor {topic.replication_factor}: there is one broker"
        raise Refused(ErrorCode.invalid_replication_factor, why)
    configs = {config.name: config.value for config in topic.configs if config.value is not None}
    parsed(configs)
    if not validate_only:
        core.store.create(TopicRow(topic.name, count, configs))


def _assigned(topic: Any) -> int:
    """The partition count of an explicit assignment, which can only name this broker."""
    numbers = sorted(each.partition_index for each in topic.assignments)
    if numbers != list(range(len(numbers))) or any(each.broker_ids != (NODE_ID,) for each in topic.assignments):
        raise Refused(
            ErrorCode.invalid_replica_assignment, f"partitions 0..n on broker {NODE_ID} alone can be assigned"
        )
    return len(numbers)


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_PARTITIONS:
        raise Refused(ErrorCode.invalid_partitions, f"{count} partitions: 1 to {MAX_PARTITIONS} are possible")


def delete_topics(core: Core, _caller: Caller, request: Any) -> Fields:
    """Deletes topics with all that is in them."""
    return {
        "responses": [{"name": name} | _outcome(core, partial(_delete, core, name)) for name in request.topic_names]
    }


def _delete(core: Core, name: str) -> None:
    if name not in core.store.topics:
        raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {name} does not exist")
    core.store.delete(name)


def create_partitions(core: Core, _caller: Caller, request: Any) -> Fields:
    """Raises partition counts."""
    results = []
    for topic in request.topics:
        outcome = _outcome(core, partial(_enlarge, core, topic, validate_only=request.validate_only))
        results.append({"name": topic.name} | outcome)
    return {"results": results}


def _enlarge(core: Core, topic: Any, *, validate_only: bool) -> None:
    found = core.store.topics.get(topic.name)
    if found is None:
        raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {topic.name} does not exist")
    _check_count(topic.count)
    if topic.count <= found.row.partitions:
        raise Refused(ErrorCode.invalid_partitions, f"{topic.name} has {found.row.partitions} partitions already")
    if not validate_only:
        core.store.create(found.row._replace(partitions=topic.count))


def delete_records(core: Core, _caller: Caller, request: Any) -> Fields:
    """Deletes records below an offset; the new start is durable before anything is gone."""
    return {
        "topics": [
            {"name": topic.name, "partitions": [_delete_records(core, topic.name, asked) for asked in topic.partitions]}
            for topic in request.topics
        ]
    }


def _delete_records(core: Core, topic: str, asked: Any) -> Fields:
    answer = {"partition_index": asked.partition_index, "low_watermark": -1}
    outcome = _outcome(core, partial(core.store.delete_before, topic, asked.partition_index, asked.offset))
    if outcome["error_code"] is ErrorCode.none:
        answer["low_watermark"] = core.store.partition(topic, asked.partition_index).start
    return answer | outcome


def describe_configs(core: Core, _caller: Caller, request: Any) -> Fields:
    """The configuration of topics and of the broker, in full or the names asked for."""
    return {"results": [_described(core, resource) for resource in request.resources]}


def _described(core: Core, resource: Any) -> Fields:
    answer = {"resource_type": resource.resource_type, "resource_name": resource.resource_name}
    found: dict[str, Any] = {"configs": ()}

    def look() -> None:
        found["configs"] = _configs(core, resource)

    return answer | _outcome(core, look) | found


def _configs(core: Core, resource: Any) -> list[Fields]:
    wanted = resource.configuration_keys
    if resource.resource_type == _TOPIC:
        topic = core.store.topics.get(resource.resource_name)
        if topic is None:
            raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {resource.resource_name} does not exist")
        values, own = {**DEFAULTS, **topic.row.configs}, set(topic.row.configs)
        if wanted is not None and TOPIC_ID in wanted:
            values[TOPIC_ID] = topic.row.id
    elif resource.resource_type == _BROKER and resource.resource_name == str(NODE_ID):
        values, own = {**_BROKER_CONFIGS, **DEFAULTS}, set()
    else:
        raise Refused(ErrorCode.invalid_request, f"no resource {resource.resource_type} {resource.resource_name!r}")
    return [_config(name, value, own) for name, value in values.items() if wanted is None or name in wanted]


def _config(name: str, value: str, own: set[str]) -> Fields:
    return {
        "name": name,
        "value": value,
        "read_only": name not in DEFAULTS,
        "config_source": _SET_ON_TOPIC if name in own else _DEFAULT,
        "is_default": name not in own,
        "is_sensitive": False,
        "synonyms": (),
        "config_type": 5 if value.lstrip("-").isdigit() else 2,
        "documentation": None,
    }


def alter_configs(core: Core, _caller: Caller, request: Any) -> Fields:
    """Gives each topic the settings that are named, and the default for every other."""
    return {"responses": [_altered(core, resource, {}, request) for resource in request.resources]}


def alter_some_configs(core: Core, _caller: Caller, request: Any) -> Fields:
    """Sets and unsets single settings of each topic."""
    topics = core.store.topics
    kept = [topics[r.resource_name].row.configs if r.resource_name in topics else {} for r in request.resources]
    return {"responses": [_altered(core, *each, request) for each in zip(request.resources, kept, strict=True)]}


def _altered(core: Core, resource: Any, kept: dict[str, str], request: Any) -> Fields:
    def alter() -> None:
        if resource.resource_type != _TOPIC:
            raise Refused(ErrorCode.invalid_request, "this broker has settings of topics alone")
        if resource.resource_name not in core.store.topics:
            raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {resource.resource_name} does not exist")
        configs = dict(kept)
        for config in resource.configs:
            _alter_one(configs, config)
        parsed(configs)
        if not request.validate_only:
            core.store.alter(resource.resource_name, configs)

    answer = {"resource_type": resource.resource_type, "resource_name": resource.resource_name}
    return answer | _outcome(core, alter)


def _alter_one(configs: dict[str, str], config: Any) -> None:
    operation = getattr(config, "config_operation", _SET)
    if operation not in {_SET, _UNSET}:
        raise Refused(ErrorCode.invalid_config, f"config {config.name}: it has one value, which can be set and unset")
    if operation == _UNSET or config.value is None:
        configs.pop(config.name, None)
    else:
        configs[config.name] = config.value


def metadata(core: Core, caller: Caller, request: Any) -> Fields:
    """The broker and the topics asked for. Nothing is created by asking."""
    names = request.topics and [topic.name for topic in request.topics]
    if names is None or (not names and caller.version == 0):
        names = sorted(core.store.topics)
    host, port = caller.reached
    return {
        "brokers": [{"node_id": NODE_ID, "host": host, "port": port, "rack": None}],
        "cluster_id": core.store.cluster_id,
        "controller_id": NODE_ID,
        "topics": [_described_topic(core, name) for name in names],
    }


def _described_topic(core: Core, name: str) -> Fields:
    topic = core.store.topics.get(name)
    if topic is None:
        code = ErrorCode.unknown_topic_or_partition if valid_name(name) else ErrorCode.invalid_topic_exception
        return {"error_code": code, "name": name, "is_internal": False, "partitions": ()}
    partitions = [
        {
            "error_code": ErrorCode.none,
            "partition_index": number,
            "leader_id": NODE_ID,
            "leader_epoch": 0,
            "replica_nodes": (NODE_ID,),
            "isr_nodes": (NODE_ID,),
            "offline_replicas": (),
        }
        for number in range(len(topic.partitions))
    ]
    return {"error_code": ErrorCode.none, "name": name, "is_internal": False, "partitions": partitions}


def find_coordinator(_core: Core, caller: Caller, request: Any) -> Fields:
    """This broker, for groups; transactions have no coordinator here."""
    host, port = caller.reached
    if caller.version and request.key_type != _GROUP:
        named(caller, NO_TRANSACTIONS)
        refused = {"error_code": FOR_TRANSACTIONS, "error_message": NO_TRANSACTIONS}
        return refused | {"node_id": -1, "host": "", "port": -1}
    return {"error_code": ErrorCode.none, "error_message": None, "node_id": NODE_ID, "host": host, "port": port}
