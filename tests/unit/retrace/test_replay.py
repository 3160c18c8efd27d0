"""A replay comes to every recorded digest and decision, whatever the run met, and names the place where it does not."""

from __future__ import annotations

import pytest
import torch

from esper.errors import InvalidInput
from esper.tolaria.state import FlatState, digest, load_checkpoint, store_checkpoint


def check(lived, **where):
    replayed = lived.replay(**where)
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.digests_checked > 0
    return replayed


def test_a_grown_run_replays_from_its_start(lived):
    lived.train(seed=1)
    replayed = check(lived)

    assert lived.count("seed_transitioned") > 4
    assert replayed.digests_checked == lived.count("state_digested")
    assert replayed.decisions_checked == lived.count("decision_made") == 10
    assert replayed.steps == 30


EVENTFUL = {
    "commands": {"script": {2: "germinate s1", 3: "germinate s1", 7: "cull s1", 9: "lr"}},
    "rollback_fast": {"script": {1: "germinate s1", 4: "germinate s2", 5: "fast", 14: "fast"}},
    "rollback_full": {"script": {1: "germinate s1", 4: "germinate s2", 5: "full"}, "checkpoint_every_epochs": 2},
    "fault": {"faults": [6, 14, 15], "script": {1: "germinate s1"}},
    "halted": {"faults": range(12, 40)},
    "late": {"miss": 4},
    "pruned": {"faults": [10], "script": {8: "full"}, "keep_checkpoints": 2},
    "direct": {"policy": "heuristic"},
}


def live(lived, case: str, seed: int):
    words = {
        "germinate s1": lived.germinate("s1"),
        "germinate s2": lived.germinate("s2"),
        "cull s1": lived.cull("s1"),
        "fast": lived.go_back("fast"),
        "full": lived.go_back("full"),
        "lr": lived.set_rate(3e-3),
    }
    story = dict(EVENTFUL[case])
    story["script"] = {at: words[word] for at, word in story.get("script", {}).items()}
    return lived.train(seed=seed, **story)


@pytest.mark.parametrize("case", EVENTFUL)
def test_whatever_a_run_met_it_meets_again(lived, case):
    live(lived, case, 2)
    replayed = check(lived)

    assert replayed.digests_checked == lived.count("state_digested")
    assert replayed.facts == sum(bool(event.sequence) for event in lived.log.events)


@pytest.mark.parametrize("at", [3, 4])
def test_commands_that_came_together_are_applied_together_again(lived, at):
    """At an epoch's end, where a decision was just applied at the same step, and in the middle of an epoch."""
    both = (lived.germinate("s1"), lived.germinate("s2"), lived.germinate("s1"), lived.cull("s2"))
    lived.train({at: both}, policy="random", seed=2)
    steps = [event.global_step for event in lived.log.events if event.HasField("command_applied")]
    assert steps.count(at) >= 2
    assert lived.count("command_rejected") >= 1

    check(lived)


@pytest.mark.parametrize("case", ["rollback_full", "fault"])
def test_it_replays_from_every_kept_checkpoint(lived, case):
    live(lived, case, 3)
    kept = lived.recorded().checkpoints()

    assert len(kept) > 5
    for fact in kept:
        replayed = check(lived, from_step=fact.checkpoint_saved.step)
        assert replayed.from_step == fact.checkpoint_saved.step


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("case", EVENTFUL)
def test_everything_replays_from_everywhere(lived, case, seed):
    live(lived, case, seed)
    for fact in lived.recorded().checkpoints():
        check(lived, from_step=fact.checkpoint_saved.step)


def test_an_interrupted_run_replays_to_where_it_was_stopped(lived):
    asked = iter(range(1000))
    lived.train(should_stop=lambda: next(asked) == 17, seed=4)
    replayed = check(lived)

    assert lived.log.bodies("run_finished")[0].status == "interrupted"
    assert (replayed.step, replayed.steps) == (17, 17)


def test_a_run_that_was_killed_replays_to_its_last_fact(lived):
    lived.train(seed=4, script={1: lived.germinate("s1")})
    events = lived.log.events[: len(lived.log.events) * 2 // 3]
    replayed = lived.replay(events)

    assert replayed.diverged is None
    assert replayed.digests_checked == sum(event.HasField("state_digested") for event in events)


def test_a_stretch_can_be_replayed_alone(lived):
    lived.train(seed=1)
    replayed = check(lived, from_step=10, to_step=20)

    assert (replayed.from_step, replayed.step) == (9, 18)
    assert replayed.digests_checked < lived.count("state_digested")


def test_a_stretch_of_a_run_that_was_rolled_back_ends_on_the_surviving_timeline(lived):
    """Step 4 was taken twice; it is the second time that counts."""
    lived.train(script={1: lived.germinate("s1"), 5: lived.go_back("fast")})
    (back,) = lived.log.bodies("rolled_back")
    assert (back.from_step, back.to_step) == (5, 3)

    replayed = check(lived, to_step=4)

    assert replayed.facts > back.to_sequence + 1


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("shift", [1, -1])
def test_a_command_that_is_moved_by_a_step_is_named(lived, shift):
    lived.train(policy="none", script={4: lived.germinate("s1")})
    events = lived.copies()
    applied = next(event for event in events if event.HasField("command_applied"))
    applied.global_step += shift
    replayed = lived.replay(events)

    assert replayed.diverged is not None
    assert abs(replayed.diverged.place.step - 4) <= 1
    assert "global_step" in replayed.diverged.what
    assert replayed.diverged.tensors[0].startswith("host/")


def test_a_command_that_is_moved_over_an_epochs_end_is_named(lived):
    lived.train(policy="none", script={5: lived.germinate("s1")})
    events = lived.copies()
    next(event for event in events if event.HasField("command_applied")).global_step = 7
    replayed = lived.replay(events)

    assert str(replayed.diverged).startswith("step 7 (epoch 1, sequence")
    assert "the run comes to epoch_completed at step 6, the record has command_applied at step 7" in str(
        replayed.diverged
    )


def flipped(host, at: int = 0):
    with torch.no_grad():
        weight = host[0].weight
        weight.view(torch.int32)[0, 0] ^= 1
    return host


def test_one_bit_of_one_weight_is_named_with_its_size(lived):
    lived.train(seed=1)
    original = lived.tiny()
    replayed = lived.replay(task=lived.tiny(make_host=lambda: flipped(original.make_host())))

    assert replayed.diverged is not None
    assert replayed.diverged.tensors == ("host/0.weight",)
    assert replayed.diverged.place.fact == "run_started"
    assert "weights_digest" in replayed.diverged.what
    assert 0.0 < replayed.diverged.difference < 1e-6


def test_one_bit_of_a_checkpoint_is_named(lived):
    """A checkpoint that was forged, with a digest that fits it, does not fit the digest that was published."""
    lived.train(seed=1)
    events = lived.copies()
    saved = [event.checkpoint_saved for event in events if event.HasField("checkpoint_saved")][4]
    flat, _, position = load_checkpoint(lived.objects, saved.ref)
    flat.tensors["host/5.bias"].view(torch.int32)[1] ^= 1
    root = digest(FlatState(flat.tensors, {k: v for k, v in flat.scalars.items() if k != "progress"})).root
    forged = store_checkpoint(lived.objects, flat, root, position)
    saved.ref, saved.state_digest = forged.ref, root
    replayed = lived.replay(events, from_step=saved.step)

    assert replayed.from_step == saved.step == replayed.diverged.place.step
    assert replayed.diverged.tensors == ("host/5.bias",)


def test_a_decision_that_does_not_follow_from_its_observation_is_named(lived):
    lived.train(seed=1)
    events = lived.copies()
    decisions = [event.decision_made for event in events if event.HasField("decision_made")]
    decisions[3].draw = decisions[3].draw / 2
    replayed = lived.replay(events)

    assert replayed.decisions_checked == 3
    assert replayed.diverged.place.epoch == 4
    assert "the decision on this packet: draw" in replayed.diverged.what


def test_long_observations_are_read_from_the_object_store(lived):
    lived.train(seed=1)
    events = lived.copies()
    decisions = [event.decision_made for event in events if event.HasField("decision_made")]
    decisions[5].observation_ref = lived.objects.put(decisions[5].observation)
    decisions[5].observation = b""
    assert lived.replay(events).decisions_checked == 10
    lived.objects.delete(decisions[5].observation_ref)
    replayed = lived.replay(events)

    assert replayed.decisions_checked == 5
    assert decisions[5].observation_ref in replayed.diverged.what


def test_a_history_that_does_not_hold_together_is_refused(lived):
    lived.train(seed=1)
    with pytest.raises(InvalidInput, match="does not hold together: gap at sequence 5"):
        lived.replay([event for event in lived.log.events if event.sequence != 4])


def test_a_replay_writes_nothing(lived, tmp_path):
    lived.train(seed=1)
    before = sorted(path for path in tmp_path.rglob("*"))
    check(lived)

    assert sorted(path for path in tmp_path.rglob("*")) == before
