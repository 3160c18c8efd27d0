"""The queue between the training loop and the log: facts wait, telemetry is shed, emergencies come first."""

from __future__ import annotations

import threading
import time

import pytest

from streams.records import Outgoing
from streams.writer import Backlog, Entry, Lane, lane_of


def entry(lane, name=b"x"):
    return Entry(Outgoing("esper.runs", b"run", name), lane, 0.0)


def drain(backlog, *, kept):
    while (taken := backlog.take(kept=kept)) is not None:
        yield taken.outgoing.payload


@pytest.mark.requirement("R-TOL-29")
def test_emergencies_overtake_every_fact_that_waits():
    backlog = Backlog()
    for name in (b"fact 1", b"fact 2"):
        backlog.put(entry(Lane.FACTS, name), 0.0)
    for name in (b"alarm 1", b"alarm 2"):
        backlog.put(entry(Lane.EMERGENCY, name), 0.0)

    assert list(drain(backlog, kept=True)) == [b"alarm 1", b"alarm 2", b"fact 1", b"fact 2"]


@pytest.mark.requirement("R-TOL-6", "R-OONA-11")
def test_telemetry_is_shed_into_a_full_queue_and_counted_until_something_is_acknowledged():
    backlog = Backlog(sheddable_limit=2)
    first = entry(Lane.TELEMETRY)
    assert backlog.put(first, 0.0)
    assert backlog.put(entry(Lane.TELEMETRY), 0.0)

    assert not backlog.put(entry(Lane.TELEMETRY), 0.0)
    assert backlog.shed == 1
    assert len(list(drain(backlog, kept=False))) == 2
    assert not backlog.put(entry(Lane.TELEMETRY), 0.0), "sent is not acknowledged"
    backlog.done(first)
    assert backlog.put(entry(Lane.TELEMETRY), 0.0)
    assert backlog.shed == 2


@pytest.mark.requirement("R-TOL-6", "R-OONA-5")
def test_a_full_queue_of_telemetry_stops_no_fact_and_a_full_queue_of_facts_no_emergency():
    backlog = Backlog(kept_limit=1, sheddable_limit=1)
    for lane in (Lane.TELEMETRY, Lane.FACTS):
        assert backlog.put(entry(lane), 0.0)

    for _ in range(100):
        assert backlog.put(entry(Lane.EMERGENCY), 0.0)
    assert backlog.shed == 0


def test_a_fact_waits_for_room_and_is_added_when_one_is_acknowledged():
    backlog = Backlog(kept_limit=1)
    first = entry(Lane.FACTS)
    backlog.put(first, 0.0)
    release = threading.Timer(0.1, backlog.done, args=(first,))
    release.start()
    started = time.monotonic()

    backlog.put(entry(Lane.FACTS, b"second"), 5.0)

    assert 0.08 < time.monotonic() - started < 4.0
    assert list(drain(backlog, kept=True)) == [b"x", b"second"]
    release.join()


def test_a_fact_that_finds_no_room_in_time_is_not_added():
    backlog = Backlog(kept_limit=1)
    backlog.put(entry(Lane.FACTS), 0.0)

    with pytest.raises(TimeoutError):
        backlog.put(entry(Lane.FACTS), 0.01)

    assert backlog.kept == 1


def test_a_given_up_fact_wakes_whoever_waits_and_is_remembered():
    backlog = Backlog()
    fact = entry(Lane.FACTS)
    backlog.put(fact, 0.0)
    backlog.put(entry(Lane.FACTS), 0.0)
    failure = RuntimeError("expired")
    threading.Timer(0.05, backlog.done, args=(fact, failure)).start()

    assert backlog.wait_until_kept(5.0)
    assert backlog.failure is failure


def test_given_up_telemetry_is_no_failure():
    backlog = Backlog()
    packet = entry(Lane.TELEMETRY)
    backlog.put(packet, 0.0)

    backlog.done(packet, RuntimeError("expired"))

    assert backlog.failure is None
    assert backlog.wait_until_kept(0.0)


def test_only_a_sleeping_sender_is_woken_and_only_once():
    backlog = Backlog()
    assert not backlog.rouse(kept=True), "it has not found the queue empty yet"
    assert backlog.take(kept=True) is None

    assert not backlog.rouse(kept=False), "the other sender does not sleep"
    assert backlog.rouse(kept=True)
    assert not backlog.rouse(kept=True)


def test_the_depth_counts_what_is_not_acknowledged_and_remembers_its_maximum():
    backlog = Backlog()
    entries = [entry(lane) for lane in Lane]
    for one in entries:
        backlog.put(one, 0.0)
    for one in entries[:2]:
        backlog.done(one)

    assert (backlog.depth, backlog.deepest) == (1, 3)


@pytest.mark.parametrize(
    ("topic", "lane"),
    [
        ("esper.runs", Lane.FACTS),
        ("esper.commands", Lane.FACTS),
        ("esper.deadletter", Lane.FACTS),
        ("esper.telemetry", Lane.TELEMETRY),
        ("esper.emergency", Lane.EMERGENCY),
    ],
)
def test_a_topic_has_its_lane(topic, lane):
    assert lane_of(topic) is lane
