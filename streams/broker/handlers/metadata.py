"""Metadata and FindCoordinator: there is one broker, and it is this one."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.codec import Fields
from streams.broker.core import CLUSTER_ID, NODE_ID, Caller, Core
from streams.broker.handlers.admin import valid_name

_GROUP: Final = 0


def metadata(core: Core, caller: Caller, request: Any) -> Fields:
    """The broker and the topics asked for. Nothing is created by asking."""
    names = request.topics and [topic.name for topic in request.topics]
    if names is None or (not names and caller.version == 0):
        names = sorted(core.store.topics)
    host, port = caller.reached
    return {
        "brokers": [{"node_id": NODE_ID, "host": host, "port": port, "rack": None}],
        "cluster_id": CLUSTER_ID,
        "controller_id": NODE_ID,
        "topics": [_topic(core, name) for name in names],
    }


def _topic(core: Core, name: str) -> Fields:
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
        why = "this broker has no transactions"
        return {"error_code": ErrorCode.invalid_request, "error_message": why, "node_id": -1, "host": "", "port": -1}
    return {"error_code": ErrorCode.none, "error_message": None, "node_id": NODE_ID, "host": host, "port": port}
