"""The state at any step: what the live run was there, wherever it is trained again from."""

from __future__ import annotations

import pytest
import torch

from esper.errors import CorruptState
from esper.leyline.envelope import Event
from esper.record import mark_at_step
from esper.record.run_status import path_from
from esper.testing import REAL_CLOCK
from esper.tolaria.replay import state_at
from esper.tolaria.state import digest


def at(lived, step, events=None):
    return state_at(lived.recorded(events), lived.tiny(), objects=lived.objects, clock=REAL_CLOCK, step=step)


def roots_at(lived) -> dict[int, bytes]:
    """The last digest of every step of the surviving timeline after which nothing else happened there."""
    recorded = lived.recorded()
    roots = {}
    for step in range(recorded.state.model.step + 1):
        mark = mark_at_step(recorded.state, step)
        told = [each for each in path_from(mark) if each.model.step == step and each.body != "run_finished"]
        bodies = [each.body for each in told]
        if bodies[:1] == ["checkpoint_saved"] and "state_digested" in bodies:
            place = told[bodies.index("state_digested")].sequence
            roots[step] = recorded.facts[place - 1].state_digested.root
    return roots


@pytest.fixture
def grown(lived):
    """A run with growth, a person's commands in the middle of epochs, a fault and a rollback."""
    script = {7: lived.germinate("s1"), 14: lived.set_rate(0.005), 19: lived.go_back("full")}
    return lived.train(script, faults=[11], policy="random", seed=5)


def test_every_recorded_state_is_come_to_again(grown):
    roots = roots_at(grown)

    assert grown.count("rolled_back") >= 1
    assert len(roots) >= 5
    for step, root in roots.items():
        assert digest(at(grown, step)).root == root, step


@pytest.mark.parametrize("stop_at", [4, 8, 13])
def test_in_the_middle_of_an_epoch_it_is_what_the_live_run_was(lived, stop_at):
    """The live host is copied before the step that follows."""
    hosts, copies = [], {}
    task = lived.tiny()

    def make_host():
        hosts.append(task.make_host())
        return hosts[-1]

    def look() -> bool:
        copies[len(copies)] = {name: tensor.clone() for name, tensor in hosts[-1].state_dict().items()}
        return False

    lived.train(task=lived.tiny(make_host=make_host), should_stop=look, seed=2)
    state = at(lived, stop_at)

    live = {f"host/{name}": tensor for name, tensor in copies[stop_at].items()}
    again = {name: tensor for name, tensor in state.tensors.items() if name.startswith("host/")}
    assert live.keys() == again.keys()
    assert all(torch.equal(live[name], again[name]) for name in live)


def test_from_the_start_and_from_a_checkpoint_it_is_the_same(grown):
    step = grown.recorded().state.model.step - 2
    near = at(grown, step)
    for fact in grown.recorded().checkpoints():
        grown.objects.delete(fact.checkpoint_saved.ref)

    assert digest(at(grown, step)).root == digest(near).root


def test_a_record_that_was_tampered_with_is_said(grown):
    events: list[Event] = grown.copies()
    transition = next(event for event in events if event.HasField("seed_transitioned"))
    transition.seed_transitioned.parameters += 1

    for fact in grown.recorded().checkpoints():
        grown.objects.delete(fact.checkpoint_saved.ref)

    with pytest.raises(CorruptState, match="does not come to its record again"):
        at(grown, grown.recorded().state.model.step, events)


def test_a_fork_with_another_policy_is_come_to_from_its_own_checkpoints(lived, other):
    """Its packets name its own policy, which its parent's configuration does not."""
    lived.train(seed=6)
    other.fork(lived, 9, "policy heuristic")
    whole = other.whole()
    *_, before, last = whole.checkpoints()
    other.objects.delete(last.checkpoint_saved.ref)
    state = state_at(whole, other.tiny(), objects=other.objects, clock=REAL_CLOCK, step=last.global_step)

    assert before.run_id == "child"
    assert digest(state).root == last.checkpoint_saved.state_digest
