"""Topics are made by the admin client before anything else, and a log that would lose history is refused."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.leyline.v1.event_pb2 import RunResumed, RunStarted, StateDigested
from contracts.leyline.v1.leyline_pb2 import AdaptationCommand
from contracts.topics import COMMANDS, PARTITIONS, RUNS, TOPICS
from esper.errors import LogUnavailable, Superseded
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing
from projections.archive_writer import Archive
from projections.manifest import covered
from streams import access, archiver
from streams.archive_start import connect
from streams.broker.launch import start_broker
from streams.consumer import LogConsumer, ends_of
from streams.feed.log_reader import LogReader
from streams.metrics import Metrics
from streams.producer import Publisher, publish_once
from streams.reader import tail
from streams.records import partition_of
from streams.topics import ensure_topics
from streams.trainer_log import KafkaLog
from tests.integration.oona.oona_events import Events
from tests.integration.oona.oona_processes import add_partitions

RING = KeyRing((b"k" * 32,))


@pytest.fixture
def bare_log(tmp_path):
    broker = start_broker(tmp_path, anonymous=True)
    yield broker
    broker.stop()


async def describe(address):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        topics = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics()}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in TOPICS]
        configs = {
            name: {entry[0]: entry[1] for entry in entries}
            for response in await admin.describe_configs(resources)
            for _code, _message, _kind, name, entries in response.resources
        }
    finally:
        await admin.close()
    return topics, configs


async def create(address, name, *, partitions=PARTITIONS, **configs):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
    finally:
        await admin.close()


@pytest.mark.requirement("R-TAM-64", "R-OONA-18", "R-OPS-2")
@pytest.mark.asyncio
async def test_every_topic_of_the_table_exists_with_its_partitions_and_retention(bare_log):
    await asyncio.gather(*(ensure_topics(bare_log.address) for _ in range(3)))
    await ensure_topics(bare_log.address)

    topics, configs = await describe(bare_log.address)

    assert topics == {topic.name: PARTITIONS for topic in TOPICS}
    for topic in TOPICS:
        assert configs[topic.name]["retention.ms"] == str(topic.retention_ms)
        assert configs[topic.name]["cleanup.policy"] == "delete"


@pytest.mark.asyncio
async def test_the_log_says_how_many_partitions_there_are_and_the_setting_only_where_none_is_yet(bare_log, monkeypatch):
    await create(bare_log.address, "esper.runs", partitions=3, **{"retention.ms": "-1"})
    monkeypatch.setenv("ESPER_PARTITIONS", "7")
    await ensure_topics(bare_log.address)
    topics, _ = await describe(bare_log.address)

    assert topics == {topic.name: 3 for topic in TOPICS}


@pytest.mark.asyncio
async def test_topics_of_different_counts_would_break_a_runs_order_and_the_way_out_destroys_nothing(bare_log):
    await create(bare_log.address, "esper.runs", partitions=1)
    await create(bare_log.address, "esper.commands", partitions=2)
    with pytest.raises(LogUnavailable, match=r"esper\.runs has 1 partitions and esper\.commands has 2") as refused:
        await ensure_topics(bare_log.address)
    said = str(refused.value)

    assert "\n" not in said
    assert "ESPER_TOPIC_PREFIX" in said
    assert "delete" not in said


@pytest.mark.asyncio
async def test_a_log_is_shared_under_a_prefix_with_partitions_of_ones_own(bare_log, monkeypatch):
    """Whoever reads has the names of the topic table; what stands before them is on the log alone."""
    address = bare_log.address
    await ensure_topics(address)
    monkeypatch.setattr(access, "_FOLDERS", {})  # from here on it is somebody else's
    monkeypatch.setenv("ESPER_TOPIC_PREFIX", "team-a.")
    monkeypatch.setenv("ESPER_PARTITIONS", "6")
    await ensure_topics(address)
    topics, _ = await describe(address)
    publisher = Publisher(address, RING, Metrics())
    event = new_event(
        StateDigested(occasion="epoch"), event_id=b"e" * 16, run_id="run", producer="trainer", recorded_at_ns=1
    )
    await publisher.publish([event])
    await publisher.stop()
    followed = [event async for event in tail(address, RING, "run", follow=False)]
    ends = await asyncio.to_thread(ends_of, address)
    consumer = LogConsumer(bootstrap_servers=address, batches=True, auto_offset_reset="earliest")
    await consumer.start()
    places = await consumer.places(RUNS)
    consumer.assign(places)
    (((place, batches),),) = [(await consumer.getmany(timeout_ms=5_000)).items()]
    await consumer.stop()
    with LogReader(address) as reader:
        count = await asyncio.to_thread(reader.connect, [RUNS.name])
        reader.seek((RUNS.name, place.partition), 0)
        taken = await asyncio.to_thread(reader.take, [(RUNS.name, place.partition)], 5.0)
    monkeypatch.delenv("ESPER_TOPIC_PREFIX")
    others = await asyncio.to_thread(ends_of, address)

    assert topics == {topic.name: 4 for topic in TOPICS} | {f"team-a.{topic.name}": 6 for topic in TOPICS}
    assert [each.event_id for each in followed] == [event.event_id]
    assert ends == {(topic, number): 0 for topic in ("esper.runs", "esper.commands") for number in range(6)} | {
        (RUNS.name, place.partition): 1
    }
    assert (batches[0].topic, place.topic, len(places), count) == (RUNS.name, RUNS.name, 6, 6)
    assert place.partition == partition_of(b"run", 6)
    assert [until for _, until in taken.values()] == [1]
    assert set(others.values()) == {0}


@pytest.mark.asyncio
async def test_a_topic_that_forgets_too_soon_is_refused_and_one_that_keeps_longer_is_fine(bare_log):
    await create(bare_log.address, "esper.telemetry", **{"retention.ms": "-1"})
    await ensure_topics(bare_log.address)
    admin = AIOKafkaAdminClient(bootstrap_servers=bare_log.address)
    await admin.start()
    await admin.delete_topics(["esper.runs"])
    await admin.close()
    await create(bare_log.address, "esper.runs", **{"retention.ms": "604800000"})

    with pytest.raises(LogUnavailable, match=r"esper\.runs deletes its records after 604800000 ms: set .* to -1"):
        await ensure_topics(bare_log.address)


@pytest.mark.asyncio
async def test_a_log_that_is_not_there_is_one_line_and_no_long_wait():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

    async with asyncio.timeout(5.0):
        with pytest.raises(LogUnavailable, match=f"no log answers at {address}") as raised:
            await ensure_topics(address)

    assert "\n" not in str(raised.value)


@pytest.mark.asyncio
async def test_a_port_that_answers_but_is_no_log_is_one_line():
    hung_up = asyncio.Event()

    async def hang(reader, writer):
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LogUnavailable, match=f"no log answers at 127.0.0.1:{port}"):
            await ensure_topics(f"127.0.0.1:{port}", timeout_s=1.0)
        await hung_up.wait()


@pytest.mark.asyncio
async def test_a_topic_that_comes_late_is_waited_for_and_one_that_never_comes_is_one_line(bare_log, monkeypatch):
    publisher = Publisher(bare_log.address, RING, Metrics(), request_timeout_s=0.5)
    await publisher.start()
    monkeypatch.setattr("streams.producer.MADE_S", 0.3)
    with pytest.raises(LogUnavailable, match="did not know its topics") as refused:
        await publisher.warm_up([RUNS.name])
    monkeypatch.setattr("streams.producer.MADE_S", 30.0)
    await publisher.start()
    waiting = asyncio.create_task(publisher.warm_up([RUNS.name]))
    await asyncio.sleep(0.3)
    await ensure_topics(bare_log.address)
    await waiting
    await publisher.stop()

    assert "\n" not in str(refused.value)


@pytest.mark.asyncio
async def test_where_somebody_adds_partitions_the_archive_takes_them_in_and_answers_find_the_run(
    bare_log, tmp_path, monkeypatch
):
    """A decider that knew four partitions answered a run on the seventh where nobody read."""
    monkeypatch.setattr(archiver, "COMPACT_S", 0.05)
    address, folder = bare_log.address, tmp_path / "archive"
    fields = {"run_id": "run", "producer": "tamiyo", "recorded_at_ns": 1}
    first, second, third = (
        new_event(StateDigested(occasion="epoch"), event_id=number.to_bytes(16, "big"), **fields)
        for number in range(1, 4)
    )
    await ensure_topics(address)
    publisher = Publisher(address, RING, Metrics())
    await publisher.publish([first])

    async def archived(stop: asyncio.Event) -> None:
        with Archive(folder, RING) as archive:
            consumer = await connect(address, archive)
            try:
                await archiver.ArchiveLoop(archive, consumer, Metrics(), stop).run()
            finally:
                await consumer.stop()

    working = asyncio.create_task(archived(asyncio.Event()))
    while not (folder / "manifest.json").exists():  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0.05)
    await add_partitions(address, 7)
    with pytest.raises(LogUnavailable, match="partitions were added"):
        await working
    await publisher.publish([second], partition=6)
    await publisher.publish([third])  # of a process that goes on: where it was
    await publisher.stop()
    stop = asyncio.Event()
    again = asyncio.create_task(archived(stop))
    while covered(folder).get((RUNS.name, 6)) != 1:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.05)
    stop.set()
    await again

    assert covered(folder)[RUNS.name, partition_of(b"run", PARTITIONS)] == 2


def settled_run():
    """The id of a run that lies elsewhere among seven partitions than among four, and where it lies among four."""
    ids = (f"run-{number}" for number in range(100))
    run_id = next(each for each in ids if partition_of(each.encode(), 4) != partition_of(each.encode(), 7))
    return run_id, partition_of(run_id.encode(), 4)


def test_a_run_stays_where_it_began_when_somebody_adds_partitions(bare_log):
    """Its key lies elsewhere then: two trainers owned it, each on its own partition, and commands came to neither."""
    address, (run_id, was) = bare_log.address, settled_run()
    asyncio.run(ensure_topics(address))
    events = Events(run_id)
    told = [events.make(AdaptationCommand(version=1)) for _ in range(2)]
    with KafkaLog(address, RING, run_id=run_id, metrics=Metrics()) as first:
        first.claim(events.fact(RunStarted(task="x")))
        asyncio.run(add_partitions(address, 7))
        asyncio.run(publish_once(address, RING, [told[0]], was))
        first.await_command(20.0)
        taken = first.take_commands()
        first.publish(events.fact())
        first.flush()
        with KafkaLog(address, RING, run_id=run_id, metrics=Metrics(), partition=was) as second:
            second.claim(events.make(RunResumed(accepted_sequence=2), sequence=3, incarnation=2))
            asyncio.run(publish_once(address, RING, [told[1]], was))
            second.await_command(20.0)
            taken += second.take_commands()
        with pytest.raises(Superseded, match="taken over by another process"):
            first.await_answer(bytes(16), 20.0)

    assert [signed.payload for signed in taken] == [each.SerializeToString(deterministic=True) for each in told]
    assert {place: end for place, end in ends_of(address).items() if end} == {
        (RUNS.name, was): 3,
        (COMMANDS.name, was): 2,
    }


def test_a_run_of_another_log_lies_by_its_key(bare_log):
    address, (run_id, was) = bare_log.address, settled_run()
    asyncio.run(ensure_topics(address))
    with KafkaLog(address, RING, run_id=run_id, metrics=Metrics(), partition=6) as log:
        log.claim(Events(run_id).fact(RunStarted(task="x")))

    assert ends_of(address)[RUNS.name, was] == 1
