"""Emergencies that somebody else has signalled: a run heeds them between two steps, on record, and again in replay."""

from __future__ import annotations

import itertools

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline.envelope import body_name
from esper.testing import REAL_CLOCK
from esper.tolaria.outside import Clock, Heard
from esper.weatherlight.alarms import RunAlarms, raise_flag
from tests.unit.retrace.test_told import refused, tell

CAUTION = Heard(leyline.EMERGENCY_LEVEL_CONSERVATIVE, "smoke", b"s" * 16)
HALT = Heard(leyline.EMERGENCY_LEVEL_HALT, "fire", b"f" * 16)


class At(RunAlarms):
    """The alarms of a run to which a signal comes when it asks for the so-many-th time."""

    def __init__(self, path, due: dict[int, Heard]) -> None:
        asked = itertools.count()
        super().__init__(path, lambda: [due[at]] if (at := next(asked)) in due else [])


def alarm_changes(lived) -> list[tuple[int, int, str]]:
    changed = [event for event in lived.log.events if event.HasField("breaker_changed")]
    return [(each.global_step, each.breaker_changed.to_state, each.breaker_changed.reason) for each in changed]


def modes(lived) -> list[tuple[bool, str]]:
    return [(each.entered, each.reason) for each in lived.log.bodies("conservative_mode_changed")]


def ten_seconds_later(lived) -> Clock:
    """A clock by which every event on the log took ten seconds."""
    return Clock(lambda: 10.0 * len(lived.log.events), REAL_CLOCK.wall_ns)


@pytest.mark.requirement("R-TOL-28", "R-OONA-26")
def test_a_conservative_one_lets_nothing_grow_until_it_was_tried_again(lived, other, tmp_path):
    lived.script = {4: tell("germinate s1 BP009"), 20: tell("germinate s2 BP009")}
    lived.train(lived.script, policy="none", alarms=At(tmp_path / "flag", {3: CAUTION}), clock=ten_seconds_later(lived))

    opened, *later = alarm_changes(lived)
    assert opened == (3, leyline.CIRCUIT_BREAKER_STATE_OPEN, "smoke")
    assert [state for _, state, _ in later] == [
        leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_CLOSED,
    ]
    assert modes(lived) == [(True, "emergency"), (False, "emergency")]
    assert refused(lived) == ["conservative_mode"]
    (grown,) = [body.seed_id for body in lived.log.bodies("command_applied")]
    assert grown == "s2", "after the trial it may grow again"
    cause = next(event for event in lived.log.events if event.HasField("breaker_changed"))
    assert cause.causation_id == CAUTION.event_id
    assert lived.replay().diverged is None

    dies = next(at for at, event in enumerate(lived.log.events) if event.HasField("command_rejected"))
    other.train(lived.script, dies_at=dies + 2, policy="none", alarms=At(tmp_path / "second flag", {3: CAUTION}))
    other.resume()
    assert alarm_changes(other)[0] == opened
    assert refused(other)[0] == "conservative_mode"
    assert other.replay().diverged is None


def test_one_that_comes_while_the_run_stands_still_is_heard_there(lived, tmp_path):
    script = {4: tell("pause"), 7: tell("rate 0.5"), 9: tell("resume"), 11: tell("germinate s1 BP009")}
    alarms = At(tmp_path / "flag", {6: CAUTION})
    lived.train(script, policy="none", alarms=alarms)

    names = [body_name(event) for event in lived.log.events if event.global_step == 4 and event.sequence]
    assert names.index("breaker_changed") > names.index("command_applied")
    assert refused(lived) == ["conservative_mode"]
    replayed = lived.replay()
    assert replayed.diverged is None, str(replayed.diverged)


@pytest.mark.requirement("R-TOL-30")
@pytest.mark.parametrize("paused", [False, True])
def test_a_halt_ends_the_run_before_its_next_step_until_a_person_goes_on(lived, other, tmp_path, paused):
    script = {2: tell("germinate s1 BP009")} | ({5: tell("pause")} if paused else {})
    lived.train(script, policy="none", alarms=At(tmp_path / "flag", {6: HALT}))

    end = next(event for event in lived.log.events if event.HasField("run_finished"))
    assert (end.run_finished.status, end.run_finished.reason) == ("interrupted", "emergency: fire")
    assert end.global_step == (5 if paused else 6)
    assert lived.replay().diverged is None
    if not paused:
        lived.resume()
        other.train({2: script[2]}, policy="none")
        assert lived.digests() == other.digests(), "it goes on as if nothing had been"


def test_the_flag_halts_a_run_whose_log_is_silent(lived, tmp_path):
    alarms = RunAlarms(tmp_path / "flag")
    assert raise_flag(tmp_path / "flag", HALT.level, HALT.reason)
    lived.train(policy="none", alarms=alarms)
    assert lived.result.status == "interrupted"
    assert lived.log.bodies("run_finished")[0].reason == "emergency: fire"
    assert max(event.global_step for event in lived.log.events) == 0
    alarms.close()
    assert not raise_flag(tmp_path / "flag", HALT.level, HALT.reason), "nobody is there any more"
