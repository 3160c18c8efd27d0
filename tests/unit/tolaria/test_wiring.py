"""What the trainer must call, and when: each fails where one line of the loop or of an epoch's end is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina.kasmina import Kasmina
from esper.leyline.envelope import body_name
from esper.testing import command_event, seed_command, signed
from esper.tolaria.commands import apply_command, drain, take_effect
from esper.tolaria.config import RunConfig
from esper.tolaria.gradients import stage_weight
from esper.tolaria.new_run import make_run
from esper.tolaria.optimizer import GroupedOptimizer
from esper.tolaria.run import Run
from esper.tolaria.world import Request

STEPS_PER_EPOCH = 4


@pytest.fixture
def run(bench, tiny_task) -> Run:
    return make_run(
        RunConfig(task="tiny", policy="none"),
        tiny_task(),
        bench.world(),
        run_id="run",
    )


def germinate(bench, at_call: int) -> Callable[[], bool]:
    """A `should_stop` that sends a germination before the step of that number."""
    calls = iter(range(10**6))

    def watch() -> bool:
        if next(calls) == at_call:
            event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, "s1", "BP009", clock=bench.clock.clock)
            bench.log.send(signed(event))
        return False

    return watch


def test_the_end_of_a_run_closes_the_windows_that_are_open(bench) -> None:
    bench.run(should_stop=germinate(bench, 3 * STEPS_PER_EPOCH + 1))
    (window,) = bench.log.bodies("epoch_completed")[-1].windows

    assert (window.ended_as, window.age_epochs) == ("run_ended", 1)


def test_a_critical_event_about_a_seed_marks_the_windows_over_it(run) -> None:
    watched = {"decision_id": b"", "blueprint_id": "BP009", "policy_version": "", "epoch": 1, "loss": 1.0}
    for number, seed_id in enumerate(("s1", "s2")):
        run.windows.open(command_id=bytes([number] * 16), seed_id=seed_id, parameters_added=0, **watched)
    run.kasmina._outbox.tell("s1", "isolation_breaker", leyline.TELEMETRY_LEVEL_CRITICAL)
    drain(run)

    assert [window.critical for window in run.windows.report()] == [True, False]


def test_failures_with_a_good_epoch_between_them_do_not_add_up(bench, tiny_task, faulty) -> None:
    """R-TOL-30 halts after failures in a row."""
    spaced = faulty({number: float("nan") for number in (3, 12, 17)})
    result = bench.run(tiny_task(per_sample_loss=spaced), max_rollbacks=2)

    assert len(bench.log.bodies("rolled_back")) == 3
    assert result.status == "completed"


@pytest.mark.requirement("R-TOL-14")
def test_a_good_epoch_closes_the_breaker_of_the_rates_again(bench) -> None:
    """R-TOL-32, with a person's command for the three outside writes that open it otherwise."""

    def command() -> None:
        payload = leyline.CommandCircuitBreaker(desired_state=leyline.CIRCUIT_BREAKER_STATE_OPEN, rationale="a test")
        body = leyline.AdaptationCommand(
            command_type=leyline.COMMAND_TYPE_CIRCUIT_BREAKER,
            circuit_breaker=payload,
            annotations={"breaker": "learning_rate"},
        )
        bench.log.send(signed(command_event("run", body, clock=bench.clock.clock)))

    calls = iter(range(10**6))

    def watch() -> bool:
        now = next(calls)
        if now == 1:
            command()
        if now == STEPS_PER_EPOCH + 1:
            bench.clock.advance(31.0)
        return False

    bench.run(should_stop=watch)

    assert [body.to_state for body in bench.log.bodies("breaker_changed")] == [
        leyline.CIRCUIT_BREAKER_STATE_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_CLOSED,
    ]
    assert [body.entered for body in bench.log.bodies("conservative_mode_changed")] == [True, False]


def test_kasmina_checks_for_leaks_after_every_backward_pass(bench, monkeypatch) -> None:
    """Before the optimiser's step, too, so that a leak never reaches the weights."""
    order: list[str] = []
    check, step = Kasmina.after_backward, GroupedOptimizer.step

    def checking(kasmina: Kasmina) -> None:
        order.append("check")
        check(kasmina)

    def stepping(optimizer: GroupedOptimizer) -> None:
        order.append("step")
        step(optimizer)

    monkeypatch.setattr(Kasmina, "after_backward", checking)
    monkeypatch.setattr(GroupedOptimizer, "step", stepping)
    bench.run()

    assert order == ["check", "step"] * 4 * STEPS_PER_EPOCH


@pytest.mark.requirement("R-KAS-38")
def test_what_kasmina_tells_in_a_step_is_on_the_log_before_the_next(bench, monkeypatch) -> None:
    advance = Kasmina.advance_step
    steps = iter(range(1, 1000))

    def telling(kasmina: Kasmina):
        if next(steps) == STEPS_PER_EPOCH + 1:
            kasmina._outbox.tell("s1", "seed_forward_error", leyline.TELEMETRY_LEVEL_ERROR)
        return advance(kasmina)

    monkeypatch.setattr(Kasmina, "advance_step", telling)
    bench.run()
    packets = [event for event in bench.log.events if body_name(event) == "telemetry_packet"]

    assert [
        (event.global_step, event.epoch, event.priority)
        for event in packets
        if event.telemetry_packet.source_subsystem == "kasmina"
    ] == [(STEPS_PER_EPOCH + 1, 1, leyline.MESSAGE_PRIORITY_HIGH)]


def test_a_run_has_the_threads_that_its_configuration_says(bench) -> None:
    before = torch.get_num_threads()
    try:
        bench.run(threads=before + 1)
        assert bench.log.bodies("run_started")[0].threads == torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_source_of_a_task_of_ones_own_is_kept_with_the_run(bench, tiny_task) -> None:
    code = b"def task(): ..."
    digest = hashlib.sha256(code).hexdigest()
    bench.run(tiny_task(source=f"file:{digest}", source_code=code))

    assert bench.log.bodies("run_started")[0].task_source == f"file:{digest}"
    assert bench.objects.get(f"sha256:{digest}") == code


def test_a_seed_in_training_is_weighed_and_clipped_by_itself(bench, run) -> None:
    event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, "s1", "BP009", clock=bench.clock.clock)
    apply_command(run, Request(event))
    assert run.learners.alone == []
    take_effect(run, run.kasmina.advance_step())
    seed = list(run.kasmina.modules()["s1"].parameters())
    ((learning, weight),) = run.learners.alone

    assert [id(parameter) for parameter in learning] == [id(parameter) for parameter in seed]
    assert weight == stage_weight(leyline.SEED_LIFECYCLE_STAGE_TRAINING, 0.0)
    assert len(run.learners.joint) == len(list(run.host.parameters()))


def test_a_seed_in_blending_learns_from_the_loss_of_the_whole_network(bench, tiny_task, monkeypatch) -> None:
    kept: list[tuple[int, dict[str, torch.Tensor]]] = []
    end_epoch = Kasmina.end_epoch

    def keeping(kasmina: Kasmina, probe, *, last):
        module = kasmina.modules().get("s1")
        if module is not None:
            stage = kasmina.observations()[0].stage
            kept.append((stage, {name: value.clone() for name, value in module.named_parameters()}))
        return end_epoch(kasmina, probe, last=last)

    monkeypatch.setattr(Kasmina, "end_epoch", keeping)
    bench.run(tiny_task(epochs=6), germinate(bench, 1), weight_decay=0.0)
    blending = [values for stage, values in kept if stage == leyline.SEED_LIFECYCLE_STAGE_BLENDING]

    assert len(blending) >= 2
    assert any(not torch.equal(blending[0][name], blending[1][name]) for name in blending[0])
