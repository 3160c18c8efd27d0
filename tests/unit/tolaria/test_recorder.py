"""The recorder: one gapless sequence of facts, and an event that says where in the run it was made."""

from __future__ import annotations

from contracts.leyline.v1 import event_pb2 as events
from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline.envelope import parse
from esper.leyline.objects import ObjectStore
from esper.testing import FakeClock, MemoryLog
from esper.tolaria.outside import Outside
from esper.tolaria.world import LiveWorld, Recorder


def test_facts_are_numbered_without_gaps_and_nothing_else_is(tmp_path) -> None:
    clock = FakeClock()
    log = MemoryLog(clock.clock)
    world = LiveWorld(Outside(log, clock.clock, ObjectStore(tmp_path)))
    recorder = Recorder(world, "run")
    for body in (
        events.RunStarted(),
        events.StepSampled(),
        events.StateDigested(),
        leyline.EmergencySignal(),
        leyline.TelemetryPacket(),
        events.RunFinished(),
    ):
        recorder.publish(body)
    assert [event.sequence for event in log.events] == [1, 0, 2, 0, 0, 3]
    assert world.published == 6


def test_an_event_says_where_it_was_made(tmp_path) -> None:
    clock = FakeClock()
    log = MemoryLog(clock.clock)
    world = LiveWorld(Outside(log, clock.clock, ObjectStore(tmp_path)), incarnation=2)
    recorder = Recorder(world, "run")
    recorder.step, recorder.epoch, recorder.timeline = 40, 2, 3
    event = recorder.publish(events.StateDigested(), causation_id=b"c" * 16, correlation_id=b"p" * 16)
    again = parse(event.SerializeToString())
    assert (again.run_id, again.producer, again.incarnation, again.timeline) == ("run", "trainer", 2, 3)
    assert (again.global_step, again.epoch, again.recorded_at_ns) == (40, 2, clock.wall_ns)
    assert (again.causation_id, again.correlation_id) == (b"c" * 16, b"p" * 16)
    assert event.event_id[6] >> 4 == 7


def test_emergencies_are_never_less_than_critical_unless_said(tmp_path) -> None:
    clock = FakeClock()
    log = MemoryLog(clock.clock)
    world = LiveWorld(Outside(log, clock.clock, ObjectStore(tmp_path)))
    recorder = Recorder(world, "run")
    recorder.publish(leyline.EmergencySignal())
    recorder.publish(leyline.EmergencySignal(), priority=leyline.MESSAGE_PRIORITY_HIGH)
    recorder.publish(events.RunStarted())
    assert [event.priority for event in log.events] == [
        leyline.MESSAGE_PRIORITY_CRITICAL,
        leyline.MESSAGE_PRIORITY_HIGH,
        leyline.MESSAGE_PRIORITY_NORMAL,
    ]
