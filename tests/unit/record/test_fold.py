"""The Python fold, rule by rule."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.topics import RUNS
from esper.kasmina.lifecycle import DORMANT, GERMINATED, TRAINING
from esper.record import Rate, evolve, fold, mark_at_epoch, mark_at_step, packets, replay, stages_by_epoch
from esper.record.accept import Fact, Tally, Verdict
from esper.record.run_status import Ledger, RunState, marks
from projections.testing import Trainers


@pytest.fixture
def run() -> Trainers:
    """A run of one trainer, started."""
    return Trainers("run")


def test_every_fact_is_handled():
    """A new body of esper.runs fails here, not in production."""
    known = fold.NOTED | fold.TO_MODEL.keys() | fold.TO_STATUS.keys()

    assert known | {"run_started", "run_resumed", "rolled_back"} == set(RUNS.bodies)


def test_a_run_starts_with_its_seeds_dormant(run):
    state = replay(run.events)

    assert (state.run_id, state.task, state.status) == ("run", "spirals", "running")
    assert (state.sequence, state.incarnation) == (1, 1)
    assert {seed.seed_id: seed.stage for seed in state.seeds.values()} == dict.fromkeys(("s1", "s2", "s3"), DORMANT)


def test_prefix_then_suffix_is_the_whole(run):
    """Folding on from a kept state gives what folding from the start gives, also twice from the same state."""
    for turn in range(12):
        run.move(0, turn, 0)
        run.complete_epoch(0)
    middle = replay(run.events[:9])

    for _ in range(2):
        state, whole = replay(run.events[9:], middle), replay(run.events)
        assert state.model == whole.model
        assert (state.sequence, state.problem, state.duplicates) == (whole.sequence, None, 0)
    assert middle.sequence == 9


def test_other_topics_do_not_matter(run):
    run.move(0, 0, 0)
    before = replay(run.events)
    run.decide()

    assert evolve(before, run.events[-1]) is before


def test_a_repetition_is_skipped_and_counted(run):
    run.move(0, 0, 0)
    run.repeat(1)
    run.move(0, 0, 0)
    state = replay(run.events)

    assert (state.problem, state.duplicates, state.sequence) == (None, 1, 3)
    assert state.seeds["s1"].stage == TRAINING


def test_a_rollback_restores_the_world_and_raises_the_timeline(run):
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.roll_back(0, 2)
    run.complete_epoch(0)
    state = replay(run.events)

    assert state.problem is None
    assert state.timeline == 2
    assert state.seeds["s1"].stage == GERMINATED
    assert [mark.sequence for mark in marks(state)] == [7, 6, 3, 2, 1]
    assert stages_by_epoch(state)[7]["s1"] == GERMINATED
    assert set(stages_by_epoch(state)) == {3, 7}


def test_a_step_means_the_surviving_timeline(run):
    """After a rollback to step 10 the steps 11 to 20 belong to what came after it."""
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.roll_back(0, 2)
    run.complete_epoch(0)
    state = replay(run.events)

    assert mark_at_step(state, 15).model.seeds["s1"].stage == DORMANT
    assert mark_at_step(state, 0).model.seeds["s1"].stage == DORMANT
    assert mark_at_step(RunState(), 5) is None


def test_what_no_rollback_takes_back_is_as_it_was_then(run):
    """Breakers, checkpoints and mode are those after a step's last fact; a rollback keeps them, no resume does."""
    trainer = run.trainers[0]
    run.complete_epoch(0)
    run.publish(trainer, pb.CheckpointSaved(ref="sha256:a", step=10))
    run.complete_epoch(0)
    run.publish(trainer, pb.BreakerChanged(breaker="isolation", to_state=2))
    run.publish(trainer, pb.ConservativeModeChanged(entered=True))
    run.roll_back(0, 3)
    kept = replay(run.events)
    run.resume(0, 1)
    resumed = replay(run.events)

    then = mark_at_step(kept, 10)
    assert (kept.run_status.breakers, kept.run_status.conservative, kept.timeline) == ({"isolation": 2}, True, 2)
    assert (then.body, then.model.step, then.run_status.timeline) == ("rolled_back", 10, 2)
    assert (resumed.problem, resumed.run_status.breakers, resumed.run_status.conservative) == (None, {}, False)
    assert resumed.run_status.checkpoints == {"sha256:a": 10}


def test_an_epoch_means_the_surviving_timeline_too(run):
    for _ in range(3):
        run.complete_epoch(0)
    run.roll_back(0, 1)
    run.complete_epoch(0)
    state = replay(run.events)

    assert [mark_at_epoch(state, epoch).sequence for epoch in (0, 1, 2, 3)] == [1, 2, 5, 6]
    assert list(packets(state, mark_at_epoch(state, 2))) == [run.events[2].event_id, run.events[1].event_id]
    assert mark_at_epoch(state, 9) is state.path


def test_a_resume_voids_what_it_does_not_accept(run):
    """Facts of the old incarnation before and after the claim, whatever their offset."""
    run.move(0, 0, 0)
    run.move(0, 0, 0)
    run.resume(0, 1)
    run.move(0, 1, 0)
    run.move(0, 1, 0)
    run.complete_epoch(1)
    state = replay(run.events)

    assert state.problem is None
    assert (state.incarnation, state.sequence, state.void) == (2, 4, 2)
    assert state.seeds["s1"].stage == GERMINATED
    assert state.seeds["s2"].stage == DORMANT


def test_of_two_claims_the_lower_offset_wins(run):
    run.move(0, 0, 0)
    run.resume(0, 0)
    run.resume(0, 0)
    run.move(1, 0, 0)
    state = replay(run.events)

    assert (state.problem, state.incarnation, state.void) == (None, 2, 1)
    assert state.seeds["s1"].stage == TRAINING


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda run: run.lose(0), "gap"),
        (lambda run: run.clash(0, 1), "conflict"),
        (lambda run: run.intrude(0), "unclaimed"),
        (lambda run: run.roll_back(0, 77, astray=True), "bad_rollback"),
        (lambda run: run.resume(0, 77, astray=True), "bad_claim"),
        (lambda run: run.force(0, 1, DORMANT + 12 * TRAINING), "illegal_transition"),
        (lambda run: run.force(0, 0, TRAINING + 12 * GERMINATED), "illegal_transition"),
        (lambda run: run.force(0, 3, DORMANT + 12 * GERMINATED), "illegal_transition"),
        (lambda run: run.forget_start(), "not_started"),
    ],
)
def test_what_cannot_be_true_stops_the_run_and_says_so(run, harm, kind):
    """Nothing after it counts, and nothing before it is lost."""
    run.move(0, 0, 0)
    run.complete_epoch(0)
    before = replay(run.events)
    harm(run)
    run.move(0, 0, 0)
    run.finish(0)
    state = replay(run.events)

    assert state.problem is not None
    assert (state.problem.kind, state.status) == (kind, "stopped")
    assert f"{kind} at sequence {state.problem.sequence}: " in str(state.problem)
    if kind != "not_started":
        assert state.model == before.model


@pytest.mark.parametrize(
    ("sequence", "verdict"), [(2, "accepted"), (3, "bad_rollback"), (5, "bad_rollback"), (6, "accepted")]
)
def test_no_rollback_goes_back_to_what_an_earlier_one_cut(run, sequence, verdict):
    """Neither to the first of the facts that were cut nor to the last; the archiver's count says the same."""
    for _ in range(4):
        run.complete_epoch(0)
    run.roll_back(0, 3)
    run.roll_back(0, sequence, astray=True)
    state, tally = replay(run.events), Tally("run")
    counted = [tally.take(_fact(event)) for event in run.events]

    assert run.events[5].rolled_back.to_sequence == 2, "which cuts 3 to 5"
    assert (state.problem.kind if state.problem else "accepted") == verdict
    assert counted[:6] == [Verdict.ACCEPTED] * 6
    assert counted[6] is Verdict[verdict.upper()]


def test_what_a_claim_cut_and_comes_again_is_a_repetition(run):
    """The log may deliver it a second time behind the claim: every event is there once."""
    run.move(0, 0, 0)
    run.move(0, 0, 0)
    run.resume(0, 1)
    again = [*run.events, run.events[2]]
    tally = Tally("run")
    counted = [tally.take(_fact(event)) for event in again]

    assert run.events[3].run_resumed.accepted_sequence == 2, "which cuts the second move"
    assert counted == [Verdict.ACCEPTED] * 4 + [Verdict.REPEATED]
    assert replay(again).problem is None


def _fact(event: pb.Event) -> Fact:
    name = event.WhichOneof("body")
    return Fact(event.run_id, name, event.event_id, event.incarnation, event.sequence, getattr(event, name))


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (pb.Event(run_started=pb.RunStarted(), incarnation=1, sequence=2), "gap"),
        (pb.Event(run_started=pb.RunStarted(), sequence=1), "not_started"),
        (pb.Event(run_resumed=pb.RunResumed(), incarnation=2, sequence=1), "not_started"),
    ],
)
def test_a_run_has_one_right_beginning(first, kind):
    assert replay([first]).problem.kind == kind


def test_a_second_start_is_no_claim(run):
    again = pb.Event(run_started=pb.RunStarted(), incarnation=2, sequence=2, event_id=bytes(16))

    assert replay([*run.events, again]).problem.kind == "bad_claim"


def test_what_facts_tell_is_remembered(run):
    """Breakers, checkpoints, learning rates, windows: beside the seeds."""
    trainer = run.trainers[0]
    window = pb.ObservationWindow(command_id=b"c" * 16, seed_id="s1")
    closed = pb.ObservationWindow(command_id=b"d" * 16, seed_id="s2", closed=True)
    for body in (
        pb.KernelAttached(seed_id="s1", blueprint_id="BP009", form="eager", module_parameters=5),
        pb.KernelSwapped(seed_id="s1", to_form="compiled"),
        pb.LearningRateChanged(group="host", new_lr=0.5),
        pb.LearningRateChanged(group="s1", new_lr=0.1, reason=fold.NEW_PARAMETERS),
        pb.LearningRateChanged(group="s2", new_lr=0.2, reason=fold.NEW_PARAMETERS),
        pb.OptimizerChanged(change="group_removed", group="s2"),
        pb.CheckpointSaved(ref="sha256:a", step=1),
        pb.CheckpointSaved(ref="sha256:b", step=2),
        pb.CheckpointPruned(ref="sha256:a"),
        pb.BreakerChanged(breaker="isolation", to_state=2),
        pb.ConservativeModeChanged(entered=True),
        pb.CommandApplied(command_id=b"c" * 16, decision_id=b"e" * 16),
        pb.EpochCompleted(windows=[window, closed], params=7, conservative=True),
        pb.RunFinished(status="interrupted", reason="Ctrl-C"),
    ):
        run.publish(trainer, body)
    state = replay(run.events)

    seed = state.seeds["s1"]
    assert (seed.blueprint_id, seed.form, seed.parameters) == ("BP009", "compiled", 5)
    assert state.model.learning_rates == {"host": Rate(0.5, 0), "s1": Rate(0.1, 0, born=0)}
    assert state.run_status.checkpoints == {"sha256:b": 2}
    assert (state.run_status.breakers, state.run_status.conservative) == ({"isolation": 2}, True)
    assert (state.run_status.last_command_id, state.run_status.last_decision_id) == (b"c" * 16, b"e" * 16)
    assert state.model.windows == {b"c" * 16: "s1"}
    assert (state.status, state.run_status.reason, state.model.params) == ("interrupted", "Ctrl-C", 7)


def test_a_ledger_never_changes_under_an_older_version():
    one = Ledger().appended(b"a")
    two, other = one.appended(b"b"), one.appended(b"c")

    assert (one.length, two.id_of(2), other.id_of(2)) == (1, b"b", b"c")
    assert (one.id_of(2), one.id_of(0), two.cut(1).id_of(2)) == (None, None, None)
    assert two.cut(1).appended(b"d").id_of(2) == b"d"
    assert two.id_of(2) == b"b"


def test_a_long_run_folds_fast_and_ends_without_overflow(run):
    """20,000 facts make a chain of as many marks, which is taken apart without recursion."""
    for _ in range(20_000):
        run.train(0)
    state = replay(run.events)

    assert state.sequence == 20_001
    del state


def test_the_fold_needs_no_torch():
    program = "import sys, esper.record; print({'torch', 'duckdb', 'pyarrow', 'faust'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
