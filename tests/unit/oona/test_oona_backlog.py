"""The queue between the training loop and the log: facts wait, telemetry is shed, emergencies come first."""

from __future__ import annotations

import threading
import time

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_CLOSED
from esper.errors import ContractViolation
from esper.leyline.envelope import new_event
from streams.pressure import BYPASSES, LASTS_S, Conservative, Writing
from streams.records import Outgoing
from streams.writer import Backlog, Entry, Lane, lane_of


def entry(lane, name=b"x", at=0.0, *, halts=False):
    return Entry(Outgoing("esper.runs", b"run", name), lane, at, halts)


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
    assert backlog.put(entry(Lane.TELEMETRY, at=LASTS_S), 0.0) is False, "one of two is not few"
    backlog.done(first)
    assert backlog.put(entry(Lane.TELEMETRY, at=LASTS_S), 0.0)
    assert backlog.shed == 3


@pytest.mark.requirement("R-OONA-15", "R-OONA-16", "R-NIS-4")
def test_a_conservative_mode_lasts_a_minute_and_until_few_wait_and_sheds_nothing_but_telemetry():
    backlog = Backlog(sheddable_limit=8)
    waiting = [entry(Lane.TELEMETRY) for _ in range(8)]
    for one in waiting:
        assert backlog.put(one, 0.0)
    assert not backlog.pressure.on
    assert not backlog.put(entry(Lane.TELEMETRY), 0.0)
    assert backlog.pressure.reason == "8 telemetry events waited"

    for one in waiting[:7]:
        backlog.done(one)
    assert not backlog.put(entry(Lane.TELEMETRY, at=LASTS_S - 1), 0.0), "few wait, but the minute is not over"
    assert backlog.put(entry(Lane.FACTS), 0.0)
    assert backlog.put(entry(Lane.EMERGENCY), 0.0)
    assert backlog.put(entry(Lane.TELEMETRY), 0.0, sheddable=False), "the report of what was shed"
    backlog.relax(LASTS_S)
    assert backlog.pressure.on, "two wait, which is a quarter"
    backlog.done(waiting[7])
    backlog.relax(LASTS_S)
    assert not backlog.pressure.on
    assert backlog.put(entry(Lane.TELEMETRY, at=LASTS_S), 0.0)
    assert backlog.shed == 2


@pytest.mark.requirement("R-OONA-13", "R-OONA-14", "R-OONA-15")
def test_three_telemetry_events_in_a_row_that_the_log_gave_up_begin_it_and_a_trial_ends_it():
    now = 0.0
    pressure = Conservative(4)
    for _ in range(2):
        pressure.failed("expired", now)
    pressure.succeeded(now)
    for _ in range(2):
        pressure.failed("expired", now)
    assert not pressure.sheds(0, now)
    pressure.failed("expired", now)
    assert pressure.reason == "the log gave up three in a row: expired"
    assert pressure.sheds(0, LASTS_S - 1)
    assert not pressure.sheds(0, LASTS_S), "half open: one is tried"
    pressure.failed("expired", LASTS_S)
    assert pressure.sheds(0, LASTS_S + 1)
    assert not pressure.sheds(0, 2 * LASTS_S)
    pressure.succeeded(2 * LASTS_S)
    assert pressure.breaker.state == CIRCUIT_BREAKER_STATE_CLOSED


@pytest.mark.requirement("R-LEY-19")
def test_telemetry_that_cannot_be_written_is_shed_and_after_three_in_a_row_none_is_for_half_a_minute(run_events):
    sample, fact, large = run_events
    writing = Writing()
    assert writing.record(large, 0.0) is None
    assert writing.record(sample, 0.0) is not None
    for _ in range(3):
        assert writing.record(large, 1.0) is None
    assert writing.record(sample, 30.0) is None
    assert writing.record(fact, 30.0) is not None, "no fact is stopped"
    assert writing.unwritten == 5
    assert writing.record(large, 31.0) is None, "the trial failed"
    assert writing.record(sample, 60.0) is None
    assert writing.record(sample, 61.0) is not None
    assert writing.breaker.state == CIRCUIT_BREAKER_STATE_CLOSED
    large.state_digested.occasion = "x" * 300_000
    with pytest.raises(ContractViolation, match="put its large part into the object store"):
        writing.record(large, 62.0)


@pytest.fixture
def run_events():
    """A sample, a fact, and telemetry that is too large to be written."""
    large = leyline_pb2.TelemetryPacket(source_subsystem="x" * 300_000)
    bodies = (event_pb2.StepSampled(loss=1.0), event_pb2.StateDigested(occasion="epoch"), large)
    return [new_event(body, event_id=b"i" * 16, run_id="run", producer="trainer", recorded_at_ns=1) for body in bodies]


@pytest.mark.requirement("R-TOL-29", "R-OONA-5")
def test_sixty_emergencies_a_minute_overtake_and_the_others_wait_in_line_but_a_halt_never():
    backlog = Backlog(kept_limit=1)
    backlog.put(entry(Lane.FACTS, b"fact"), 0.0)
    for number in range(BYPASSES + 2):
        assert backlog.put(entry(Lane.EMERGENCY, b"alarm %d" % number), 0.0), "it waits for no room"
    assert backlog.put(entry(Lane.EMERGENCY, b"halt", halts=True), 0.0)
    assert backlog.put(entry(Lane.EMERGENCY, b"a minute later", at=60.0), 0.0)

    sent = list(drain(backlog, kept=True))
    assert sent[BYPASSES - 1 : BYPASSES + 3] == [b"alarm 59", b"halt", b"a minute later", b"fact"]
    assert sent[-2:] == [b"alarm 60", b"alarm 61"]
    assert backlog.queued == 2


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
