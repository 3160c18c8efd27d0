"""The whole system on a real Apache Kafka: three brokers, entered by SASL and TLS, shared with others under a prefix.

Short here and in the order of this file (`e2e/conftest.py`), long under `-m soak`. `tests/kafka.py` says what is needed
for it; without that, all of it is skipped.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource

from contracts.leyline.v1.event_pb2 import StateDigested
from contracts.topics import FLEET_GROUP, GROUPS, RUNS
from esper.cli.up import kept_by
from esper.errors import LogUnavailable
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing
from streams.consumer import ends_of, enter
from streams.feed import EventFeed, Field, Schema
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import tail
from streams.records import partition_of
from streams.topics import closed_groups, copies_of, ensure_topics
from streams.work import WorkLog
from streams.writer import LogWriter
from tests.e2e.test_relive import House, digests
from tests.kafka import MISSING, NODES, RIGHTS, USER, Kafka, token

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is all there"),
    pytest.mark.timeout(600),
    # aiokafka waits for no connection that it closes: with TLS a loop may end before both sides have said so.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
RING = KeyRing((b"k" * 32,))
PASSWORD = "correct-horse-battery-staple"
SCRAMBLED = "another-one-of-them"
PARTITIONS = 3
EPOCHS = 40
"""Of a task that gets ever slower until everything was killed that is to be (`go_on`)."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """Three brokers, until this module is done."""
    cluster = Kafka(tmp_path_factory.mktemp("kafka"), PASSWORD)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module", autouse=True)
def conformance(kafka, request, tmp_path_factory):
    """The conformance tests on these brokers, beside the tests here: they mostly wait. Who kills a broker waits."""
    if not any(item.name == test_the_conformance_tests_hold_on_kafka.__name__ for item in request.session.items):
        yield None
        return
    said = tmp_path_factory.mktemp("conformance") / "said"
    with said.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-n0", "-q", "--no-header", "tests/integration/conformance"],
            cwd=ROOT,
            env={**os.environ, "ESPER_TEST_BROKERS": kafka.inside},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    yield Conformance(running, said)
    running.kill()
    running.wait()


@dataclass(frozen=True)
class Conformance:
    """A run of the conformance tests and what it says."""

    running: subprocess.Popen[bytes]
    said: Path

    def wait(self) -> int:
        """Its exit code."""
        return self.running.wait(300)


@pytest.fixture
def entered(kafka, monkeypatch, request) -> str:
    """The environment of a user of the cluster, with the least rights on what begins with the prefix that it gives."""
    kafka.start()  # a test before may have killed one
    prefix = f"{request.function.__name__[:40]}-{random.randrange(10**9)}."
    kafka.allow(prefix)
    for name, value in {
        "BROKERS": kafka.brokers,
        "KEY": "5e" * 32,
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_USERNAME": USER,
        "SASL_PASSWORD": PASSWORD,
        "SSL_CAFILE": str(kafka.certificate),
        "TOPIC_PREFIX": prefix,
        "PARTITIONS": str(PARTITIONS),
    }.items():
        monkeypatch.setenv(f"ESPER_{name}", value)
    return prefix


def refused(doing: Callable[[], object]) -> str:
    """What is said where it does not work, in one line; how soon, `unit/oona/test_oona_ways_in.py` has measured."""
    with pytest.raises(LogUnavailable) as raised:
        doing()
    assert "\n" not in str(raised.value)
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


def good_token() -> str:
    return token(USER)


def old_token() -> str:
    return token(USER, seconds=-60.0)


def test_every_login_lets_in_and_a_wrong_one_is_named(kafka, entered, monkeypatch):
    kafka.add_scram("scrambled", SCRAMBLED)

    def tell(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"ESPER_{name}", value)

    enter(kafka.brokers)
    tell(SASL_PASSWORD="wrong")
    assert "user or password is wrong (SASL_SSL, PLAIN, user 'app')" in refused(lambda: enter(kafka.brokers))
    tell(SASL_MECHANISM="SCRAM-SHA-256", SASL_USERNAME="scrambled", SASL_PASSWORD=SCRAMBLED)
    enter(kafka.brokers)
    tell(SASL_PASSWORD=PASSWORD)
    assert "user or password is wrong (SASL_SSL, SCRAM-SHA-256" in refused(lambda: enter(kafka.brokers))
    tell(SASL_MECHANISM="SCRAM-SHA-512")
    assert "correct ESPER_SASL_MECHANISM" in refused(lambda: enter(kafka.brokers))
    monkeypatch.delenv("ESPER_SASL_USERNAME")
    monkeypatch.delenv("ESPER_SASL_PASSWORD")
    tell(SASL_MECHANISM="OAUTHBEARER", SASL_TOKEN_PROVIDER=f"{__name__}:good_token")
    enter(kafka.brokers)
    tell(SASL_TOKEN_PROVIDER=f"{__name__}:old_token")
    assert "it refuses the token" in refused(lambda: enter(kafka.brokers))
    monkeypatch.delenv("ESPER_SASL_TOKEN_PROVIDER")
    monkeypatch.delenv("ESPER_SASL_MECHANISM")
    tell(SECURITY_PROTOCOL="SSL")
    assert "does it ask for SASL?" in refused(lambda: enter(kafka.brokers))
    monkeypatch.delenv("ESPER_SSL_CAFILE")
    tell(SECURITY_PROTOCOL="PLAINTEXT")
    assert "correct ESPER_SECURITY_PROTOCOL" in refused(lambda: enter(kafka.brokers))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("CREATE", "cannot be created: TopicAuthorizationFailedError"),
        ("DESCRIBE_CONFIGS", "does not tell its settings (TopicAuthorizationFailedError)"),
        ("READ", "did not give its records: [Error 29] TopicAuthorizationFailedError"),
        ("WRITE", "did not take what was written: [Error 29] TopicAuthorizationFailedError"),
    ],
)
def test_each_right_of_the_docs_is_needed_and_a_missing_one_is_named(kafka, entered, monkeypatch, missing, said):
    prefix = f"lacks-{missing}."
    monkeypatch.setenv("ESPER_TOPIC_PREFIX", prefix)
    (kind, name, operations), group = RIGHTS
    left = [each for each in operations.split() if each != missing]
    kafka.allow(prefix, rights=[(kind, name, " ".join(left)), group])

    async def begin() -> None:
        await ensure_topics(kafka.brokers)
        await ensure_topics(kafka.brokers)  # what exists already is looked at
        publisher = Publisher(kafka.brokers, RING, Metrics(), request_timeout_s=4.0)
        body = StateDigested(occasion="epoch")
        try:
            await publisher.publish([new_event(body, event_id=b"e" * 16, run_id="r", producer="p", recorded_at_ns=1)])
        finally:
            await publisher.stop()
        assert [event async for event in tail(kafka.brokers, RING, "r", follow=False)]

    assert said in refused(lambda: asyncio.run(begin()))


def test_each_group_needs_its_right_and_a_missing_one_is_named(kafka, entered, monkeypatch):
    """A decider waited for ever to join, and it was said that it was not ready within 30 s."""
    prefix = "lacks-groups."
    monkeypatch.setenv("ESPER_TOPIC_PREFIX", prefix)
    topics, (kind, _, operations) = RIGHTS
    kafka.allow(prefix, rights=[topics])
    asyncio.run(ensure_topics(kafka.brokers))
    assert asyncio.run(closed_groups(kafka.brokers)) == list(GROUPS)
    for group in GROUPS:
        asks = partial(work_done, kafka) if group == FLEET_GROUP else partial(begun, kafka, group)
        said = refused(asks)
        kafka.allow(prefix, rights=[(kind, group, operations)])
        asks()

        assert said.startswith(f"group {prefix}{group} is closed to this user")
    assert asyncio.run(closed_groups(kafka.brokers)) == []


def begun(kafka, group):
    asyncio.run(ensure_topics(kafka.brokers, group=group))


def work_done(kafka):
    with WorkLog(kafka.brokers, RING) as log:
        assert log.caught_up(20)
        log.commit()


def test_two_of_three_copies_acknowledge_and_topics_of_which_one_does_are_named(kafka, entered):
    asyncio.run(ensure_topics(kafka.brokers))
    kept = asyncio.run(copies_of(kafka.brokers))
    weak = ConfigEntry(
        "min.insync.replicas",
        "1",
        incremental_operation=AlterConfigOpType.SET,
        source=ConfigSource.DYNAMIC_TOPIC_CONFIG,
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, entered + RUNS.name, incremental_configs=[weak])
    admin = kafka.admin()
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)

    assert set(kept.topics.values()) == {(3, 2)}
    assert kept_by(kept)[0] == "ok"
    verdict, said = kept_by(asyncio.run(copies_of(kafka.brokers)))
    assert verdict == "note"
    assert f"one broker of {entered}{RUNS.name}: run `kafka-configs" in said


@pytest.mark.soak
def test_with_two_of_three_away_it_is_waited_as_for_a_log_that_is_away(kafka, entered):
    asyncio.run(ensure_topics(kafka.brokers))
    event = {"run_id": "r", "producer": "trainer", "recorded_at_ns": 1}
    with LogWriter(kafka.brokers, RING, producer="trainer", metrics=Metrics()) as writer:
        kafka.kill(3)
        writer.publish(new_event(StateDigested(occasion="epoch"), event_id=b"1" * 16, **event))
        writer.flush(60.0)  # with one away it goes on
        kafka.kill(2)
        writer.publish(new_event(StateDigested(occasion="epoch"), event_id=b"2" * 16, **event))
        with pytest.raises(LogUnavailable, match="enough of them for the copies that must be in sync"):
            writer.flush(5.0)
        kafka.start()
        writer.flush(60.0)

    assert sum(ends_of(kafka.brokers).values()) == 2


@pytest.fixture
def house(kafka, entered, esper, forks):
    """`esper up` on the cluster."""
    made = House(esper, forks, EPOCHS)
    yield made
    made.close()


def test_the_way_of_a_run_whose_trainer_and_whose_leader_die(kafka, entered, esper, house, conformance, go_on):
    go_on.touch()
    assert house.train("calm").last_word()["result"]["status"] == "completed"
    lived = digests(house.whole("calm"))
    if conformance:
        conformance.wait()
    go_on.unlink()
    trainer = house.train("stirred")
    house.wait_for_epoch("stirred", 2)
    trainer.kill()
    resumed = house.resume("stirred")
    kafka.kill(kafka.leader(entered + RUNS.name, partition_of(b"stirred", PARTITIONS)))
    go_on.touch()
    assert resumed.last_word()["result"]["status"] == "completed"
    facts = house.whole("stirred")

    assert digests(facts) == lived
    assert [fact.sequence for fact in facts] == list(range(1, len(facts) + 1))
    same = esper.json("fork", "stirred", "--at", str(12 * EPOCHS - 60), "--do", "nothing")
    assert (same["same_as_parent"], same["parts_at_step"]) == (True, None)
    assert esper.json("replay", "stirred")["diverged"] is False
    (entrance,) = [each for each in esper.json("doctor") if each["check"] == "log address"]
    assert entrance["verdict"] == "note"
    assert "another lets us in (SASL_SSL)" in entrance["found"]
    count = "select count(distinct event_id) as n from log.epoch_completed"
    given = fed(esper.data_dir)
    assert given > 2 * EPOCHS
    esper.wait_until(lambda: esper.json("sql", count)[0]["n"] == given)
    assert PASSWORD not in esper.logs()
    assert not [path for path in esper.data_dir.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert not [each for each in esper.processes() if PASSWORD in " ".join(each.cmdline())]


def test_the_conformance_tests_hold_on_kafka(conformance):
    code = conformance.wait()
    said = conformance.said.read_text()

    assert code == 0, said[-4000:]
    assert int(said.split(" passed")[0].split()[-1]) > 25  # those of kcat need kcat


@pytest.mark.soak
def test_who_is_above_the_quota_is_held_back_and_loses_nothing(kafka, entered):
    asyncio.run(ensure_topics(kafka.brokers))
    kafka.limit(USER, producer_byte_rate=20_000)
    metrics = Metrics()
    body = StateDigested(occasion="epoch", root=bytes(32))
    began = time.monotonic()
    try:
        with LogWriter(kafka.brokers, RING, producer="trainer", metrics=metrics) as writer:
            for number in range(3_000):
                event_id = number.to_bytes(16, "big")
                writer.publish(new_event(body, event_id=event_id, run_id="r", producer="trainer", recorded_at_ns=1))
                if number % 100 == 0:
                    writer.flush(60.0)
            writer.flush(60.0)
    finally:
        kafka.limit(USER, producer_byte_rate=0)
    took_s = time.monotonic() - began

    assert took_s > 5.0  # 3,000 of 100 bytes and more
    assert sum(ends_of(kafka.brokers).values()) == 3_000


FAULTS = ("broker killed", "broker paused", "broker restarted", "trainer killed", "trainer paused")


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_twenty_faults_of_brokers_and_trainers_at_random_cost_no_fact(kafka, house, go_on):
    """Four of each kind in random order, run after run; every run ends as one that nothing happened to.

    One broker at a time is away, for longer than its session (3 s) or less. Who could write nothing for half a minute
    is interrupted, and resumed like one that was killed.
    """
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    faults = list(FAULTS) * 4
    chance.shuffle(faults)
    go_on.touch()
    assert house.train("calm").last_word()["result"]["status"] == "completed"
    lived = digests(house.whole("calm"))
    told, number = [], 0
    while faults:
        number += 1
        told.append(ended := disturbed(kafka, house, f"run-{number}", faults, chance, go_on))
        facts = house.whole(f"run-{number}")

        assert digests(facts) == lived, (seed, told)
        assert [fact.sequence for fact in facts] == list(range(1, len(facts) + 1)), (seed, told)
        assert len({fact.event_id for fact in facts}) == len(facts), (seed, told)
    assert sum(len(each) for each in told) == 4 * len(FAULTS), ended


def disturbed(
    kafka: Kafka, house: House, run_id: str, faults: list[str], chance: random.Random, go_on: Path
) -> list[str]:
    """Train to the end under faults that are taken from the list; which they were."""
    go_on.unlink(missing_ok=True)
    trainer, met = house.train(run_id), []
    house.wait_for_epoch(run_id, 1)
    while True:
        while faults and not trainer.is_over:
            time.sleep(chance.uniform(0.0, 2.0))
            met.append(fault := faults.pop())
            node, seconds = chance.randint(1, NODES), chance.uniform(0.5, 8.0)
            if fault == "broker killed":
                kafka.kill(node)
                time.sleep(seconds)
                kafka.start()
            elif fault == "broker paused":
                kafka.pause(node, seconds)
            elif fault == "broker restarted":
                kafka.restart(node)
            elif trainer.is_over:
                faults.append(met.pop())
            elif fault == "trainer paused":
                os.kill(trainer.pid, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(trainer.pid, signal.SIGCONT)
            else:
                trainer.kill()
                trainer = house.resume(run_id)
        go_on.touch()
        last = trainer.last_word()
        if last.get("result", {}).get("status") == "completed" or "is over (completed)" in last.get("error", ""):
            return met
        assert last.get("result", {}).get("status") == "interrupted" or "the log" in last.get("error", ""), last
        trainer = house.resume(run_id)


def fed(data_dir: Path) -> int:
    """How many ends of epochs a feed gives, from archive and log."""
    feed = EventFeed(data_dir, Schema("epoch_completed", [Field("event_id", width=16)]), end="now")
    return sum(len(batch["event_id"]) for batch in feed)
