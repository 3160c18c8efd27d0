"""What hung on a clock, or came from outside, is as it was, on whatever clock the run is lived again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina import lifecycle
from esper.kasmina.isolation import Isolation
from esper.kasmina.settings import SeedSettings
from esper.tolaria import engine as loop
from esper.tolaria.guard import ISOLATION
from tests.unit.retrace.lives import QUICK


def agrees(lived, **how) -> None:
    replayed = lived.replay(**how)
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.digests_checked == lived.count("state_digested")


def test_a_kernel_that_was_slow_then_is_culled_again(lived):
    """In a run of the rules by which a clock could cull."""
    seeds = replace(QUICK, rules=1)
    lived.train({1: lived.germinate("s1")}, policy="none", clock=lived.slow_clock(0.02), seeds=seeds)
    verdicts = {body.gate: body for body in lived.log.bodies("gate_evaluated")}
    assert not verdicts[lifecycle.G2].passed
    assert "kernel_latency_ms" in verdicts[lifecycle.G2].reason

    agrees(lived)


def test_a_kernel_that_was_quick_then_is_not_culled_now(lived):
    lived.train({1: lived.germinate("s1")}, policy="none")
    verdicts = {body.gate: body for body in lived.log.bodies("gate_evaluated")}
    assert verdicts[lifecycle.G2].passed

    agrees(lived, clock=lived.slow_clock(0.02))


def test_a_breaker_opens_and_is_tried_again_when_it_was(lived):
    lived.train(miss=3, seed=4, clock=lived.slow_clock(1.0))
    states = [body.to_state for body in lived.log.bodies("breaker_changed") if body.breaker == "tamiyo"]
    assert states == [
        leyline.CIRCUIT_BREAKER_STATE_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_CLOSED,
    ]
    assert [body.entered for body in lived.log.bodies("conservative_mode_changed")] == [True, False]

    agrees(lived)
    for fact in lived.recorded().checkpoints():
        assert lived.replay(from_step=fact.checkpoint_saved.step).diverged is None


@pytest.mark.parametrize(("live_s", "again_s", "opens"), [(0.0, 11.0, True), (11.0, 0.0, False)])
def test_an_isolation_breaker_opens_when_it_did(lived, monkeypatch, live_s, again_s, opens):
    """Three violations within 30 s open it: on one of the two clocks they are that close together."""
    monkeypatch.setattr(Isolation, "leaks", lambda _self, _output, _own: 1.0)
    seeds = SeedSettings(training_epochs=3, embargo_epochs=1)
    lived.train({1: lived.germinate("s1")}, policy="none", clock=lived.slow_clock(live_s), seeds=seeds)
    changes = [body for body in lived.log.bodies("breaker_changed") if body.breaker.startswith(ISOLATION)]
    assert bool(changes) == opens

    agrees(lived, clock=lived.slow_clock(again_s))


def test_a_rate_that_was_written_from_outside_is_undone_by_record(lived, monkeypatch):
    real = loop.set_rates

    def tampered(run) -> None:
        if run.recorder.step in (4, 5, 6):
            run.optimizer.groups[0]["lr"] = 0.5
        real(run)

    monkeypatch.setattr(loop, "set_rates", tampered)
    lived.train(seed=4, policy="none")
    monkeypatch.undo()
    assert [body.reason for body in lived.log.bodies("learning_rate_changed")] == ["outside write undone"] * 3
    assert [body.breaker for body in lived.log.bodies("breaker_changed")][:1] == ["learning_rate"]

    agrees(lived)
