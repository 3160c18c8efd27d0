"""Creates the topics of `contracts/topics.py` with the admin client, before anything else talks to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAlreadyExistsError, for_code

from contracts.topics import BY_NAME, FOR_EVER, GROUPS, TOPICS, Topic
from esper.errors import LogUnavailable
from streams.access import credentials, prefix_of
from streams.not_let_in import no_log
from streams.settings import Settings as EsperSettings

MAX_REPLICAS: Final = 3
COPIES_S: Final = 5.0
APPEND_TIME: Final = {"message.timestamp.type": "LogAppendTime"}
"""The log says when a record came. What a producer says of that is believed of history alone (`docs/security.md`)."""
TWO: Final = 2
TWO_IN_SYNC: Final = {"min.insync.replicas": f"{TWO}"}
"""Of topics with three copies: a record is acknowledged when two brokers have it, so it does not die with one, and any
one of them may be away. With two away nothing is acknowledged, and producers wait as for a log that is away."""
_OWN_SETTING: Final = 1
"""What DescribeConfigs calls a setting made for this very topic; everything else is a default."""
Settings = dict[str, dict[str, tuple[Any, bool]]]
"""Of each topic, each setting's value, and whether it was set for this topic."""


async def ensure_topics(brokers: str, *, group: str = "", timeout_s: float = 10.0) -> str:
    """Every topic exists, keeps its records long enough and stamps them, whoever created it.

    Topics that are missing are created, with as many partitions as those that exist already, or as `ESPER_PARTITIONS`
    says; on a cluster with up to three copies. Those that exist are told to stamp what comes with the log's own time.
    It is asked as well whether this user may be in the consumer group `group`: who may not would wait for ever to join.
    Returns the cluster's id, empty where it says none. Raises LogUnavailable where no broker answers within
    `timeout_s`, where one refuses, and where a topic that exists would break the order of a run or delete its history.
    """
    timeout_ms = int(timeout_s * 800)  # before ours: cut off itself, aiokafka would leave its first connection open
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=timeout_ms, **credentials(brokers))
    prefix = prefix_of(brokers)
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            there = set(await admin.list_topics())
            existing = [topic for topic in TOPICS if prefix + topic.name in there]
            partitions = await _partitions(admin, prefix, existing) if existing else EsperSettings.load().partitions
            await _create(admin, prefix, partitions, [topic for topic in TOPICS if topic not in existing])
            await _check(admin, prefix, existing)
            if group:
                await _look_for(admin, prefix + group)
            return str((await admin.describe_cluster()).get("cluster_id") or "")
    except (KafkaError, OSError, TimeoutError) as error:
        raise no_log(brokers, error) from None
    finally:
        await admin.close()


async def _look_for(admin: AIOKafkaAdminClient, group: str) -> None:
    if not await _is_open(admin, group):
        raise closed(group)


async def _is_open(admin: AIOKafkaAdminClient, group: str) -> bool:
    try:
        await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return False
    except KafkaError:
        return True  # Kafka makes the place of all groups when the first is asked for, and says until then it has none
    return True


def closed(group: str) -> LogUnavailable:
    """What is said where this user may not be in a group, which is named as on the log."""
    return LogUnavailable(
        f"group {group} is closed to this user (GroupAuthorizationFailedError): give it Read on that group; "
        "docs/kafka.md has the rights"
    )


async def closed_groups(brokers: str) -> list[str]:
    """The groups of ours that are closed to this user; raises LogUnavailable where the log does not say in time."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=brokers, request_timeout_ms=int(COPIES_S * 800), **credentials(brokers)
    )
    try:
        async with asyncio.timeout(COPIES_S):
            await admin.start()
            return [group for group in GROUPS if not await _is_open(admin, prefix_of(brokers) + group)]
    except (KafkaError, OSError, TimeoutError) as error:
        raise no_log(brokers, error) from None
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient, prefix: str, topics: list[Topic]) -> int:
    """How many partitions topics that exist have: all the same number, as a run is on one partition of each."""
    described = await admin.describe_topics([prefix + topic.name for topic in topics])
    counts = {each["topic"]: len(each["partitions"]) for each in described}
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] != counts[least]:
        raise LogUnavailable(
            f"topic {least} has {counts[least]} partitions and {most} has {counts[most]}, and a run needs as many of "
            "each: set ESPER_TOPIC_PREFIX to a name of your own, and topics are made beside these"
        )
    return counts[most]


async def _create(admin: AIOKafkaAdminClient, prefix: str, partitions: int, topics: list[Topic]) -> None:
    if not topics:
        return
    replicas = min(MAX_REPLICAS, len((await admin.describe_cluster())["brokers"]))
    response = await admin.create_topics(
        [
            NewTopic(
                prefix + topic.name,
                num_partitions=partitions,
                replication_factor=replicas,
                topic_configs={
                    "cleanup.policy": "delete",
                    "retention.ms": str(topic.retention_ms),
                    **(APPEND_TIME | (TWO_IN_SYNC if replicas == MAX_REPLICAS else {})),
                },
            )
            for topic in topics
        ]
    )
    for name, code, *message in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process may have been first
            raise LogUnavailable(
                f"topic {name} cannot be created: {error.__name__} {' '.join(filter(None, message))}; let this user do "
                "so, or make it yourself: docs/kafka.md has the topics and the rights"
            )


async def _check(admin: AIOKafkaAdminClient, prefix: str, topics: list[Topic]) -> None:
    if not topics:
        return
    settings = await _settings(admin, [prefix + topic.name for topic in topics])
    for name, found in settings.items():
        kept_ms, wanted = int(found["retention.ms"][0]), BY_NAME[name.removeprefix(prefix)].retention_ms
        if kept_ms != FOR_EVER and (wanted == FOR_EVER or kept_ms < wanted):
            raise LogUnavailable(
                f"topic {name} deletes its records after {kept_ms} ms: set its retention.ms to {wanted} "
                "so that no history is lost"
            )
    await _stamp(admin, settings)


async def _stamp(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    """Has every topic stamp its records; what else was set for it stays, since altering replaces all of it."""
    wanted = [
        ConfigResource(
            ConfigResourceType.TOPIC,
            name,
            {key: value for key, (value, own) in found.items() if own and value is not None} | APPEND_TIME,
        )
        for name, found in settings.items()
        if any(found.get(key, ("", False))[0] != value for key, value in APPEND_TIME.items())
    ]
    for response in await admin.alter_configs(wanted) if wanted else ():
        for code, message, _kind, name in response.resources:
            if code:
                why = f"{for_code(code).__name__} {message or ''}".strip()
                raise LogUnavailable(
                    f"topic {name} cannot be altered ({why}): set its message.timestamp.type to LogAppendTime, so that "
                    "what a producer says of the time is not believed"
                )


async def _settings(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Settings:
    responses: list[Any] = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    )
    found: Settings = {}
    for response in responses:
        for code, _message, _kind, name, entries in response.resources:
            if code:
                raise LogUnavailable(
                    f"topic {name} does not tell its settings ({for_code(code).__name__}): let this user see them: "
                    "docs/kafka.md has the rights"
                )
            found[name] = {entry[0]: (entry[1], entry[3] == _OWN_SETTING) for entry in entries}
    return found


@dataclass(frozen=True, slots=True)
class Copies:
    """Of the topics on a log of so many `brokers`: how many copies of each, and how many acknowledge a record."""

    brokers: int
    topics: dict[str, tuple[int, int]]

    @property
    def frail(self) -> list[str]:
        """Topics whose acknowledged records may die with one broker, although there are brokers for more copies."""
        return [name for name, kept in self.topics.items() if self.brokers > 1 and min(kept) < TWO]


async def copies_of(brokers: str) -> Copies:
    """How the log keeps our topics, as far as they exist. Raises LogUnavailable where it does not say in `COPIES_S`."""
    timeout_ms = int(COPIES_S * 800)  # as above
    prefix = prefix_of(brokers)
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=timeout_ms, **credentials(brokers))
    try:
        async with asyncio.timeout(COPIES_S):
            await admin.start()
            existing = set(await admin.list_topics())
            names = [prefix + topic.name for topic in TOPICS if prefix + topic.name in existing]
            described = await admin.describe_topics(names) if names else []
            settings = await _settings(admin, names) if names else {}
            count = len((await admin.describe_cluster())["brokers"])
    except (KafkaError, OSError, TimeoutError) as error:
        raise no_log(brokers, error) from None
    finally:
        await admin.close()
    kept = {each["topic"]: min(len(one["replicas"]) for one in each["partitions"]) for each in described}
    in_sync = {name: int(settings[name].get("min.insync.replicas", ("1", False))[0]) for name in kept}
    return Copies(count, {name: (copies, in_sync[name]) for name, copies in kept.items()})
