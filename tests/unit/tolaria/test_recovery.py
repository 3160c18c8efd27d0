"""Rollback: what went wrong is undone bit for bit, told as a fact, and never tried the same way for ever."""

from __future__ import annotations

import math

import pytest
import torch
from google.protobuf.struct_pb2 import Struct

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import CorruptState
from esper.leyline.envelope import body_name
from esper.testing import command_event, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.kept import keep, save_checkpoint
from esper.tolaria.new_run import make_run
from esper.tolaria.rollback import Halt, roll_back
from esper.tolaria.run_state import capture
from esper.tolaria.session import publish_start
from esper.tolaria.state import digest, tensors_of_checkpoint


def started_run(bench, task, **config):
    """A run at step 0 whose first state is kept."""
    run = make_run(
        RunConfig(task="tiny", policy="none", rate_policy="constant", **config),
        task,
        bench.world(),
        run_id="run",
    )
    publish_start(run)
    return run


def spoil(run) -> None:
    """Change everything that a rollback must bring back."""
    with torch.no_grad():
        for parameter in run.host.parameters():
            parameter.add_(1.0)
    run.rates.scale(3.0, "test", 0)
    torch.rand(5)
    torch.randperm(5, generator=run.random.data)
    run.probe_losses.append(9.0)
    run.recorder.step += 7
    run.recorder.epoch += 1


@pytest.mark.requirement("R-TOL-21")
@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_rollback_restores_the_state_bit_for_bit(bench, tiny_task, level: str) -> None:
    run = started_run(bench, tiny_task())
    before = digest(capture(run))
    spoil(run)
    assert digest(capture(run)).root != before.root
    body = roll_back(run, "test", level)
    assert digest(capture(run)).parts == before.parts
    assert (body.level, body.from_step, body.to_step, body.to_epoch, body.new_timeline) == (level, 7, 0, 0, 2)
    assert body.state_digest == before.root == bench.digests("start")[0]
    assert (run.recorder.step, run.recorder.epoch, run.recorder.timeline, run.probe_losses) == (0, 0, 2, [])
    assert bool(body.checkpoint_ref) == (level == "full")


@pytest.mark.requirement("R-TOL-19", "R-OPS-8")
def test_every_phase_is_timed_and_a_missed_deadline_is_told(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task())
    readings = iter([0.0, 0.1, 0.35, 0.55, 0.6])
    run.clock = type(run.clock)(lambda: next(readings), run.clock.wall_ns)
    body = roll_back(run, "test", "fast")
    assert (body.prepare_ms, body.commit_ms, body.confirm_ms) == pytest.approx((100.0, 250.0, 200.0))
    assert body.deadline_exceeded
    assert [change.reason for change in bench.log.bodies("conservative_mode_changed")] == ["rollback"]


@pytest.mark.requirement("R-TOL-30")
def test_where_a_missed_deadline_halts_the_run_ends_and_goes_on_only_as_a_person_says(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task(), halt_at_missed_deadline=True)
    readings = iter([0.0, 0.1, 0.35, 0.55, 0.6])
    run.clock = type(run.clock)(lambda: next(readings), run.clock.wall_ns)
    with pytest.raises(Halt, match=r"the fast rollback took 550 ms, 500 are allowed, at step 0 \(halt_at_missed"):
        roll_back(run, "test", "fast")
    assert [signal.level for signal in bench.log.bodies("emergency_signal")] == [leyline.EMERGENCY_LEVEL_HALT]
    assert bench.log.bodies("rolled_back")[0].deadline_exceeded


@pytest.mark.requirement("R-TOL-22")
def test_a_broken_snapshot_escalates_to_the_checkpoint(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task())
    before = digest(capture(run)).root
    newest = run.snapshots.newest()
    assert newest is not None
    next(iter(newest.flat.tensors.values())).add_(1)
    assert roll_back(run, "test", "fast").level == "full"
    assert digest(capture(run)).root == before


@pytest.mark.requirement("R-TOL-22")
def test_without_a_snapshot_the_full_way_is_taken(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task(), fast_snapshot_bytes=0)
    assert run.snapshots.newest() is None
    assert roll_back(run, "test", "fast").level == "full"


def test_a_corrupt_checkpoint_is_passed_over_for_the_one_before(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task())
    first = digest(capture(run)).root
    spoil(run)
    flat = capture(run)
    save_checkpoint(run, keep(run, flat, digest(flat)), "epoch")
    bench.objects.delete(tensors_of_checkpoint(bench.objects, run.checkpoints[-1].ref))
    body = roll_back(run, "test", "full")
    assert (body.to_step, body.state_digest) == (0, first)


def test_with_nothing_left_to_restore_it_says_so(bench, tiny_task) -> None:
    run = started_run(bench, tiny_task())
    bench.objects.delete(run.checkpoints[0].ref)
    with pytest.raises(CorruptState, match=r"no checkpoint of run run can be restored: object sha256:.* is not in"):
        roll_back(run, "test", "full")


def epoch_of(event) -> tuple[int, int]:
    return event.timeline, event.epoch


@pytest.mark.requirement("R-TOL-31")
@pytest.mark.parametrize(("fault", "reason"), [(math.nan, "non_finite_loss"), (1e6, "divergence")])
def test_a_passing_fault_costs_an_epoch_and_nothing_else(bench, second_bench, tiny_task, faulty, fault, reason) -> None:
    """With the rates left alone, the run after the rollback is the undisturbed run, digest by digest."""
    bench.run(tiny_task(per_sample_loss=faulty({8: fault})), rollback_rate_factor=1.0)
    second_bench.run(tiny_task(per_sample_loss=faulty({})))
    assert bench.digests() == second_bench.digests()
    (body,) = bench.log.bodies("rolled_back")
    assert (body.level, body.reason, body.from_step, body.to_step, body.to_epoch) == ("fast", reason, 6, 4, 1)
    facts = {event.sequence: event for event in bench.log.events if event.sequence}
    anchor = facts[body.to_sequence]
    assert body_name(anchor) == "state_digested"
    assert anchor.state_digested.root == body.state_digest
    assert [epoch_of(event) for event in bench.log.events if body_name(event) == "epoch_completed"] == [
        (1, 1),
        (2, 2),
        (2, 3),
        (2, 4),
    ]


def test_after_a_failure_the_rates_are_halved_and_nothing_grows_for_an_epoch(bench, tiny_task, faulty) -> None:
    bench.run(tiny_task(per_sample_loss=faulty({8: math.nan})))
    changes = [(each.group, each.reason) for each in bench.log.bodies("learning_rate_changed")]
    assert changes == [("host", "rollback: non_finite_loss")]
    assert bench.log.bodies("learning_rate_changed")[0].new_lr == pytest.approx(5e-3)
    modes = [(each.entered, each.reason) for each in bench.log.bodies("conservative_mode_changed")]
    assert modes == [(True, "rollback"), (False, "rollback")]
    assert [body.conservative for body in bench.log.bodies("epoch_completed")] == [False, True, False, False]
    signals = bench.log.bodies("emergency_signal")
    assert [signal.level for signal in signals] == [leyline.EMERGENCY_LEVEL_CONSERVATIVE]


@pytest.mark.requirement("R-TOL-30")
def test_a_step_that_always_fails_halts_the_run_in_its_last_good_state(bench, tiny_task, faulty) -> None:
    faults = dict.fromkeys(range(8, 100), math.nan)
    result = bench.run(tiny_task(per_sample_loss=faulty(faults)))
    assert (result.status, result.epochs) == ("failed", 1)
    assert result.reason == "non_finite_loss at step 4, for the 3. time without a completed epoch (epoch 2)"
    assert [body.level for body in bench.log.bodies("rolled_back")] == ["fast", "full", "full"]
    assert [each.level for each in bench.log.bodies("emergency_signal")][-1] == leyline.EMERGENCY_LEVEL_HALT
    assert bench.log.bodies("run_finished")[0].status == "failed"
    assert math.isfinite(result.test_loss)


def rollback_command(bench, level: str) -> None:
    payload = Struct()
    payload.update({"level": level})
    command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_ROLLBACK, rollback_payload=payload)
    bench.log.send(signed(command_event("run", command, clock=bench.clock.clock)))


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_rollback_by_command_goes_back_to_the_epochs_start(bench, second_bench, tiny_task, level: str) -> None:
    calls = iter(range(1000))

    def watch() -> bool:
        if next(calls) == 6:
            rollback_command(bench, level)
        return False

    bench.run(tiny_task(), watch)
    second_bench.run(tiny_task())
    assert bench.digests() == second_bench.digests()
    (body,) = bench.log.bodies("rolled_back")
    assert (body.level, body.reason, body.from_step, body.to_step) == (level, "command", 6, 4)
    assert bench.log.bodies("command_applied")[0].command_type == leyline.COMMAND_TYPE_ROLLBACK


def germinate(bench, seed_id: str) -> None:
    event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, seed_id, "BP009", clock=bench.clock.clock)
    bench.log.send(signed(event))


@pytest.mark.requirement("R-KAS-45", "R-TOL-23", "R-TOL-34")
@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("undone_after", [10, 22])
def test_a_rollback_takes_seeds_back_with_the_network(
    bench, second_bench, tiny_task, level: str, undone_after: int
) -> None:
    """R-TOL-23: a seed of the lost stretch is gone, an older one is as it was, in TRAINING or BLENDING."""

    def script(each, *, disturbed: bool):
        calls = iter(range(1000))

        def watch() -> bool:
            now = next(calls)
            if now == 1:
                germinate(each, "s1")
            if disturbed and now == undone_after:
                germinate(each, "s2")
            if disturbed and now == undone_after + 1:
                rollback_command(each, level)
            return False

        return watch

    bench.run(tiny_task(epochs=9), script(bench, disturbed=True))
    second_bench.run(tiny_task(epochs=9), script(second_bench, disturbed=False))
    assert [body.level for body in bench.log.bodies("rolled_back")] == [level]
    stages = [(body.seed_id, body.to_stage) for body in bench.log.bodies("seed_transitioned")]
    assert ("s2", leyline.SEED_LIFECYCLE_STAGE_GERMINATED) in stages
    assert {seed.seed_id: seed.life for seed in bench.log.bodies("epoch_completed")[-1].seeds} == {"s1": 1, "s2": 0}
    assert bench.digests() == second_bench.digests()


def test_windows_over_undone_commands_are_reported_as_rolled_back(bench, tiny_task) -> None:
    calls = iter(range(1000))

    def watch() -> bool:
        if next(calls) == 5:
            germinate(bench, "s1")
            rollback_command(bench, "fast")
        return False

    bench.run(tiny_task(), watch)
    endings = [window.ended_as for body in bench.log.bodies("epoch_completed") for window in body.windows]
    assert endings == ["rolled_back"]
