"""The end of an epoch: the packet says all that a policy may know, and a missing decision stops nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline import ids
from esper.leyline.envelope import body_name
from esper.testing import seed_command, signed
from esper.tolaria.commands import set_rates
from esper.tolaria.config import RunConfig
from esper.tolaria.new_run import make_run
from esper.tolaria.tasks import Site
from esper.tolaria.world import FOR_EVER_S


@pytest.mark.requirement("R-KAS-47")
def test_the_packet_holds_what_a_policy_may_know(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=3), policy="heuristic", growth_budget_factor=2.0, seed=4)
    packets = [event for event in bench.log.events if body_name(event) == "epoch_completed"]
    body = packets[-1].epoch_completed
    assert [event.epoch_completed.state.current_epoch for event in packets] == [1, 2, 3]
    assert packets[-1].event_id.hex() == body.state.packet_id.replace("-", "")
    assert (body.epochs_total, body.policy, body.params_host) == (3, "heuristic", 93)
    assert body.params_budget == 186
    assert [row.seed_id for row in body.evidence] == ["s1", "s2"]
    assert [seed.seed_id for seed in body.seeds] == ["s1", "s2"]
    assert all(site.options for site in body.sites)
    assert body.probe_loss_stderr > 0
    assert body.flops == body.flops_training + body.flops_measuring
    assert body.flops_measuring > 0
    assert (body.lifecycle, body.rate_policy, body.decay_from_epoch) == ("careful", "constant", 0)
    assert body.state.hardware_context.device_type == "cpu"
    assert body.state.hardware_context.total_memory_gb > body.state.hardware_context.available_memory_gb > 0


@pytest.mark.parametrize(("axes", "tried"), [(("depth", "width"), True), (("depth",), False)])
def test_candidates_are_tried_where_axes_are_chosen_from_and_not_in_a_run_of_old(bench, tiny_task, axes, tried) -> None:
    bench.run(tiny_task(epochs=1), policy="heuristic", axes=axes)
    (body,) = bench.log.bodies("epoch_completed")
    assert [row.HasField("candidate_descent") for row in body.evidence] == [tried, tried]


def test_a_state_packet_stays_small(bench, tiny_task) -> None:
    """Ruling 22: with one seed that is not dormant, below 280 bytes."""
    bench.run(tiny_task(epochs=12), policy="heuristic")
    sizes = [
        len(body.state.SerializeToString()) for body in bench.log.bodies("epoch_completed") if body.state.seed_states
    ]
    assert sizes
    assert max(sizes) < 280


def test_no_decision_is_waited_for_with_the_policy_that_makes_none(bench) -> None:
    bench.log.await_answer = lambda *_: pytest.fail("the trainer waited")
    bench.run(policy="none")
    assert bench.log.bodies("decision_made") == []


def waits(bench) -> list[float]:
    """Record the timeouts that the trainer asks for."""
    asked: list[float] = []
    plain = bench.log.await_answer

    def watched(packet_id: bytes, timeout_s: float):
        asked.append(timeout_s)
        return plain(packet_id, timeout_s)

    bench.log.await_answer = watched
    return asked


@pytest.mark.requirement("R-TAM-12")
@pytest.mark.parametrize(("timeout_s", "asked"), [(2.0, 2.0), (None, FOR_EVER_S)])
def test_the_wait_is_as_long_as_configured(bench, timeout_s: float | None, asked: float) -> None:
    seen = waits(bench)
    bench.run(policy="heuristic", decision_timeout_s=timeout_s)
    assert seen == [asked] * 4


@pytest.mark.requirement("R-TOL-2", "R-TAM-13")
def test_a_missing_decision_is_recorded_and_its_late_command_rejected(bench, tiny_task) -> None:
    bench.log.miss(3)  # at epoch 2 or 3 the heuristic germinates
    bench.run(tiny_task(epochs=8), policy="heuristic")
    timed_out = bench.log.bodies("decision_timed_out")
    packets = [event.event_id for event in bench.log.events if body_name(event) == "epoch_completed"]
    assert [body.packet_id for body in timed_out] == packets[:3]
    rejected = bench.log.bodies("command_rejected")
    assert rejected
    assert {body.reason for body in rejected} == {"late"}
    assert not any(body.critical for body in rejected)
    commands = {body.command_id for body in bench.log.bodies("command_applied")}
    assert commands.isdisjoint({body.command_id for body in rejected})


@pytest.mark.requirement("R-TOL-32", "R-TAM-38")
def test_three_missing_decisions_open_the_breaker_until_half_a_minute_is_over(bench, tiny_task) -> None:
    seen = waits(bench)
    bench.log.miss(3)
    epochs = iter(range(100))

    def watch() -> bool:
        if next(epochs) == 6 * 4:  # before the seventh epoch
            bench.clock.advance(31.0)
        return False

    bench.run(tiny_task(epochs=9), watch, policy="heuristic")
    assert len(seen) == 3 + 3
    changes = [(body.breaker, body.to_state) for body in bench.log.bodies("breaker_changed")]
    assert changes == [
        ("tamiyo", leyline.CIRCUIT_BREAKER_STATE_OPEN),
        ("tamiyo", leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN),
        ("tamiyo", leyline.CIRCUIT_BREAKER_STATE_CLOSED),
    ]
    modes = [(body.entered, body.reason) for body in bench.log.bodies("conservative_mode_changed")]
    assert modes == [(True, "tamiyo"), (False, "tamiyo")]
    conservative = [body.conservative for body in bench.log.bodies("epoch_completed")]
    assert conservative == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.requirement("R-TOL-7")
def test_a_wall_clock_jump_changes_no_timeout(bench, tiny_task) -> None:
    """R-TOL-7: durations come from the monotonic clock alone."""
    calls = iter(range(100))

    def watch() -> bool:
        if next(calls) == 6:
            bench.clock.wall_ns -= 3600 * 10**9
        return False

    bench.run(tiny_task(), watch)
    assert all(body.duration_s == 0.0 for body in bench.log.bodies("epoch_completed"))
    assert bench.log.bodies("run_finished")[0].wall_s == 0.0


@pytest.mark.requirement("R-TOL-1")
def test_the_hooks_parts_are_measured_apart_and_sum_to_it(bench, tiny_task) -> None:
    """R-TOL-1, with a clock that moves by a second at every reading."""
    readings = iter(range(10**6))
    bench.clock.clock = type(bench.clock.clock)(lambda: float(next(readings)), bench.clock.clock.wall_ns)
    bench.run(tiny_task(epochs=2), policy="heuristic")
    points = {point.name: point.value for point in bench.log.bodies("telemetry_packet")[-1].metrics}
    names = ("assembly", "decision", "command", "acknowledgement")
    parts = [points[f"tolaria.epoch_hook.{name}_ms"] for name in names]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(points["tolaria.epoch_hook.latency_ms"])


@pytest.mark.requirement("R-TOL-40")
def test_thirty_two_seeds_live_at_once(bench, tiny_task) -> None:
    """R-TOL-40: the trainer sets no number of seeds."""
    layers = [layer for _ in range(32) for layer in (nn.Linear(4, 4), nn.Tanh())]
    task = tiny_task(
        make_host=lambda: nn.Sequential(*copy.deepcopy(layers), nn.Linear(4, 3)),
        sites=tuple(Site(str(2 * number + 1), "vector") for number in range(32)),
        epochs=3,
    )
    calls = iter(range(1000))

    def watch() -> bool:
        if next(calls) == 0:
            for site in bench.log.bodies("run_started")[0].sites:
                germinate = leyline.SEED_OPERATION_GERMINATE
                event = seed_command("run", germinate, site.seed_id, "BP009", clock=bench.clock.clock)
                bench.log.send(signed(event))
        return False

    result = bench.run(task, watch)
    assert result.seeds["germinated"] == 32
    assert len(bench.log.bodies("epoch_completed")[0].state.seed_states) == 32
    trained = {each.group for each in bench.log.bodies("optimizer_changed") if each.change == "group_added"}
    assert len(trained) == 32


def test_windows_are_reported_closed_once_and_answered_by_a_report(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=16), policy="heuristic")
    closed = [window for body in bench.log.bodies("epoch_completed") for window in body.windows if window.closed]
    applied = bench.log.bodies("command_applied")
    last = bench.log.bodies("epoch_completed")[-1].state.packet_id
    reported = [window.command_id for window in closed]
    assert len(set(reported)) == len(reported)
    # A command of the very last boundary has no epoch left to be watched in.
    at_the_end = [event.command_applied for event in bench.log.events if body_name(event) == "command_applied"][-1:]
    missing = {body.command_id for body in applied} - set(reported)
    assert missing <= {body.command_id for body in at_the_end}, last
    # Decisions without a window have reports, too, which name no seed.
    answered = [report.command_id for report in bench.log.bodies("field_report") if report.seed_id]
    assert sorted(answered) == sorted(map(ids.text, reported))
    assert all(window.decision_id and window.policy_version for window in closed)


def test_an_outside_write_to_the_rate_is_undone_before_the_step(bench, tiny_task) -> None:
    run = make_run(
        RunConfig(task="tiny", policy="none", rate_policy="constant"),
        tiny_task(),
        bench.world(),
        run_id="run",
    )
    set_rates(run)
    for _ in range(3):
        run.optimizer.groups[0]["lr"] = 1.0
        flushes = bench.log.flushes
        set_rates(run)
        assert run.optimizer.groups[0]["lr"] == pytest.approx(1e-2)
        assert bench.log.flushes == flushes + 1
    assert [body.reason for body in bench.log.bodies("learning_rate_changed")] == ["outside write undone"] * 3
    changes = [(body.breaker, body.to_state, body.failures) for body in bench.log.bodies("breaker_changed")]
    assert changes == [("learning_rate", leyline.CIRCUIT_BREAKER_STATE_OPEN, 3)]
    assert run.mode.on


def test_growth_reaches_a_fossil_and_the_optimiser_follows(bench, tiny_task) -> None:
    task = tiny_task(
        epochs=30,
        make_host=lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)),
        learning_rate=2e-2,
        sites=(Site("1", "vector"),),
    )
    result = bench.run(task, policy="heuristic", seed=1)
    assert result.seeds["germinated"] >= 1
    added = [body.group for body in bench.log.bodies("optimizer_changed") if body.change == "group_added"]
    removed = [body.group for body in bench.log.bodies("optimizer_changed") if body.change == "group_removed"]
    assert len(added) == result.seeds["germinated"]
    assert len(removed) == result.seeds["culled"]
    rates = [body for body in bench.log.bodies("learning_rate_changed") if body.reason == "new parameters"]
    assert len(rates) == result.seeds["germinated"]
    assert result.params_final == result.params_host + sum(
        seed.parameters for seed in bench.log.bodies("epoch_completed")[-1].seeds
    )


def test_checkpoints_need_no_pickle(bench, tmp_path: Path) -> None:
    bench.run(epochs=1)
    contents = [path.read_bytes() for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert contents
    assert not any(content.startswith((b"\x80", b"PK")) for content in contents)
    assert torch.get_num_threads() == 1
