"""A fork is its parent up to where it leaves it, and after that what its one change makes of it."""

from __future__ import annotations

import pytest

from esper.errors import InvalidInput
from esper.leyline.envelope import body_name
from esper.record import replay
from esper.testing import REAL_CLOCK
from esper.tolaria.fork_change import order_of, place_of, read_change
from esper.tolaria.replay import replay_run

LAST = 30


def digests(events) -> dict[tuple[int, str], bytes]:
    """By step and occasion, the last of each: a transition's may come several times at a step."""
    bodies = [(event.global_step, event.state_digested) for event in events if event.HasField("state_digested")]
    return {(step, body.occasion): body.root for step, body in bodies}


def check_replays(child) -> None:
    """The child, its parent's part included, can be lived again."""
    whole = child.whole()
    assert whole.state.problem is None
    replayed = replay_run(whole, child.tiny(), objects=child.objects, clock=REAL_CLOCK)
    assert replayed.diverged is None, str(replayed.diverged)


@pytest.mark.parametrize("step", [0, 9, 13])
def test_a_fork_that_does_nothing_is_its_parent(lived, other, step):
    """At an epoch's end (9), in the middle of one (13) and at the very start."""
    lived.train(seed=6)
    other.fork(lived, step, "nothing")
    own = digests(other.log.events)
    parents = digests(lived.log.events)

    assert own.items() <= parents.items()
    assert (LAST, "epoch") in own
    assert min(at for at, _ in own) >= step
    assert other.result.val_accuracy == lived.result.val_accuracy
    check_replays(other)


def test_its_first_fact_names_the_last_one_that_it_shares(lived, other):
    lived.train(seed=6)
    other.fork(lived, 9, "nothing")
    start = other.log.events[0]
    shared = next(event for event in lived.log.events if event.event_id == start.causation_id)

    assert body_name(start) == "run_started"
    assert start.run_id == "child"
    assert start.run_started.parent_run_id == "run"
    assert start.run_started.parent_sequence == shared.sequence == start.sequence - 1
    assert start.run_started.fork_change == "nothing"
    assert all(event.run_id == "child" for event in other.log.events)
    state = replay([*[e for e in lived.log.events if 0 < e.sequence <= shared.sequence], *other.log.events])
    assert (state.problem, state.run_id, state.status, state.model.step) == (None, "child", "completed", LAST)


def grown(lived, seed: int = 6) -> str:
    """A seed that lives at the end of epoch 4, which is step 12, and in the middle of epoch 5."""
    lived.train({4: lived.germinate("s1", "BP009")}, seed=seed, policy="none")
    return "s1"


@pytest.mark.parametrize(
    ("step", "change"), [(6, "cull s1"), (7, "cull s1"), (6, "germinate s2 BP009"), (8, "germinate s2 BP009")]
)
def test_a_changed_fork_differs_from_its_step_on(lived, other, step, change):
    """At an epoch's end it takes the place of that epoch's decision, elsewhere it comes before the next step."""
    grown(lived)
    other.fork(lived, step, change)
    own = [event for event in other.log.events if event.HasField("state_digested")]
    parents = digests(lived.log.events)

    assert own[0].global_step == step
    assert own[0].state_digested.occasion == "transition"
    later = [(e.global_step, e.state_digested) for e in own if e.state_digested.occasion == "epoch"]
    assert all(body.root != parents[step_, "epoch"] for step_, body in later)
    applied = next(event for event in other.log.events if event.HasField("command_applied"))
    assert (applied.global_step, applied.command_applied.origin) == (step, "fork")
    check_replays(other)


@pytest.mark.parametrize("change", ["no action, order 1", "nothing, order 2"])
def test_a_fork_may_refrain_and_take_another_order_of_data(lived, other, change):
    """At the end of epoch 3 (step 9) something germinated; the fork is replayed from its record, the order included."""
    lived.train({3: lived.germinate("s1", "BP009")}, seed=6, policy="none")
    other.fork(lived, 9, change)
    own, parents = (digests(each.log.events) for each in (other, lived))

    assert not any(event.HasField("command_applied") for event in other.log.events)
    assert other.log.events[0].run_started.fork_change == change
    assert own[LAST, "epoch"] != parents[LAST, "epoch"]
    check_replays(other)


@pytest.mark.parametrize("step", [7, 9])
def test_a_fork_may_change_all_learning_rates(lived, other, step):
    lived.train(seed=6, policy="none")
    other.fork(lived, step, "adjust x0.5")
    applied = [event for event in other.log.events if event.HasField("command_applied")]

    assert [(each.global_step, each.command_applied.origin) for each in applied] == [(step, "fork")]
    assert other.log.events[0].run_started.fork_change == "rate 0.5"
    assert digests(other.log.events)[LAST, "epoch"] != digests(lived.log.events)[LAST, "epoch"]
    check_replays(other)


def test_each_order_of_data_is_another_one_and_the_same_again(lived, other, tmp_path):
    lived.train(seed=6, policy="none")
    ends = []
    for number, change in enumerate(["nothing", "nothing, order 1", "nothing, order 2", "nothing, order 1"]):
        child = type(lived)(tmp_path / str(number))
        child.fork(lived, 24, change)
        ends.append(digests(child.log.events)[LAST, "epoch"])

    assert ends[0] == digests(lived.log.events)[LAST, "epoch"]
    assert len(set(ends)) == 3
    assert ends[1] == ends[3]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("germinate s1 BP051 x0.5, order 2", ("germinate s1 BP051 x0.5, order 2", 0.5, 2, False)),
        ("cull s2", ("cull s2", 1.0, 0, False)),
        ("no action, order 03", ("no action, order 3", 1.0, 3, True)),
        ("adjust x0.5", ("rate 0.5", 1.0, 0, False)),
    ],
)
def test_a_change_is_read_with_its_size_and_order(words, read):
    change = read_change(words)
    assert (change.text, change.size, change.order, change.refrains) == read
    assert order_of(change.text) == change.order
    assert read_change(change.text) == change


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nothing, order 0", "number them from 1 on"),
        ("nothing, order x", "'x' is no order of data"),
        ("germinate s1 BP051 x2", "'x2' is no size"),
        ("germinate s1 BP051 half", "'half' is no size"),
        ("rate nan", "'nan' is no share of the learning rates"),
    ],
)
def test_a_size_or_order_that_cannot_be_is_told(words, told):
    with pytest.raises(InvalidInput, match=told):
        read_change(words)


def test_only_a_decision_can_be_refrained_from(lived):
    lived.train(seed=6, policy="none")
    with pytest.raises(InvalidInput, match="no decision was made at step 10"):
        place_of(lived.whole(), 10, read_change("no action"))


def test_at_an_epochs_end_the_chain_of_causes_begins_with_the_parents_packet(lived, other):
    grown(lived)
    other.fork(lived, 6, "cull s1")
    packet = [event for event in lived.log.events if event.HasField("epoch_completed")][1]
    by_id = {event.event_id: event for event in other.log.events}
    moved = next(event for event in other.log.events if event.HasField("seed_transitioned"))
    applied = by_id[moved.causation_id]
    command = by_id[applied.causation_id]

    assert packet.global_step == 6
    assert body_name(command) == "adaptation_command"
    assert command.causation_id == packet.event_id == moved.correlation_id
    assert not any(event.HasField("decision_made") and event.global_step == 6 for event in other.log.events)


@pytest.mark.parametrize("step", [9, 10])
def test_another_policy_decides_from_there_on(lived, other, step):
    lived.train(seed=6, policy="none")
    other.fork(lived, step, "policy random")
    decisions = [event for event in other.log.events if event.HasField("decision_made")]

    assert decisions[0].global_step == (9 if step == 9 else 12)
    assert {event.decision_made.policy for event in decisions} == {"random"}
    assert other.log.events[0].run_started.policy == "random"
    check_replays(other)


def test_a_fork_of_a_fork(lived, other, tmp_path):
    grown(lived)
    other.fork(lived, 6, "cull s1")
    check_replays(other)
    again = type(lived)(tmp_path / "again")
    again.fork(other, 12, "germinate s2 BP009", run_id="grandchild")

    state = again.whole().state
    assert (state.problem, state.status) == (None, "completed")
    check_replays(again)


def test_a_fork_may_fail_and_go_back_to_its_parents_state(lived, other):
    """In the epoch in which it left, it has no state of its own yet."""
    grown(lived)
    calls = iter(range(1000))
    task = lived.tiny()
    fault = task.per_sample_loss

    def faulty(logits, targets):
        loss = fault(logits, targets)
        return loss * float("nan") if loss.requires_grad and next(calls) == 3 else loss

    other.fork(lived, 7, "germinate s2 BP009", task=lived.tiny(per_sample_loss=faulty))
    (back,) = other.log.bodies("rolled_back")

    assert back.to_sequence < other.log.events[0].sequence
    check_replays(other)


def test_a_fork_leaves_its_parents_checkpoints_alone(lived, other):
    lived.train(seed=6, keep_checkpoints=3)
    other.fork(lived, 27, "nothing")

    for fact in lived.recorded().checkpoints():
        assert fact.checkpoint_saved.ref in lived.objects


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (30, "nothing", "can be left before its steps 0 to 29, not before 30"),
        (6, "cull s9", "there is no seed 's9'; there are s1, s2"),
        (6, "cull s2", "s2 is DORMANT there and cannot become CULLED"),
        (6, "germinate s1 BP009", "cannot become GERMINATED"),
        (6, "germinate s2 BP043", "BP043 cannot grow there; BP"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(lived, step, change, message):
    grown(lived)
    with pytest.raises(InvalidInput, match=message):
        place_of(lived.recorded(), step, read_change(change))


@pytest.mark.parametrize("words", ["", "cull", "cull s1 s2", "germinate s1", "policy", "do something"])
def test_words_that_mean_nothing_are_refused(words):
    with pytest.raises(InvalidInput, match="is nothing that a fork can do; write"):
        read_change(words)


def test_a_blueprint_is_named_by_its_name_or_its_id():
    assert read_change("germinate s1 Residual_Block") == read_change(" germinate s1  bp009 ")
    assert read_change("germinate s1 residual_block").text == "germinate s1 BP009"
    with pytest.raises(InvalidInput, match="there is no blueprint 'residual_blok'; did you mean BP009 residual_block"):
        read_change("germinate s1 residual_blok")


def test_a_policy_that_there_is_not_is_refused():
    with pytest.raises(
        InvalidInput, match="there is no policy 'clever'; choose heuristic, random, explore, none, learned"
    ):
        read_change("policy clever")


def test_a_parent_that_was_rolled_back_is_left_on_the_surviving_timeline(lived, other):
    lived.train({1: lived.germinate("s1"), 5: lived.go_back("fast")}, seed=6)
    assert lived.count("rolled_back") == 1
    other.fork(lived, 4, "nothing")

    assert other.log.events[0].timeline == 2
    assert digests(other.log.events).items() <= digests(lived.log.events).items()


@pytest.mark.parametrize("dies_at", [3, 40])
def test_a_fork_that_died_is_resumed(lived, other, tmp_path, dies_at):
    """Soon after it left, when only its parent's checkpoints are there, and later, from its own."""
    grown(lived)
    whole = type(lived)(tmp_path / "whole").fork(lived, 7, "germinate s2 BP009")
    other.fork(lived, 7, "germinate s2 BP009", dies_at=dies_at).resume()

    assert digests(other.log.events) == digests(whole.log.events)
    (claim,) = [event for event in other.log.events if event.HasField("run_resumed")]
    assert claim.run_id == "child"
    assert not claim.run_resumed.superseded
    check_replays(other)
