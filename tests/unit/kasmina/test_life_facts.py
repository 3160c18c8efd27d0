"""What the facts say of a seed's life, whatever is asked in whatever order."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.leyline.v1.event_pb2 import GateEvaluated, KernelAttached, SeedTransitioned
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.settings import SeedSettings

LENIENT = {"benefit_z": 0.0, "regression_z": 1e6, "harm_z": 1e6, "drift_z": 1e6}


def test_kernel_attached_describes_the_module(make_lab):
    lab = make_lab()
    facts = lab.germinate("plain")
    attached = next(fact for fact in facts if isinstance(fact, KernelAttached))
    assert (attached.module_parameters, attached.flops_per_sample, attached.form) == (42, 7, "eager")
    assert len(attached.kernel_digest) == 32
    again = make_lab()
    twin = next(fact for fact in again.germinate("plain") if isinstance(fact, KernelAttached))
    other = next(fact for fact in again.germinate("plain", "s2") if isinstance(fact, KernelAttached))
    assert twin.kernel_digest == attached.kernel_digest
    assert other.kernel_digest != attached.kernel_digest


ACTIONS = st.lists(
    st.one_of(
        st.just(("step",)),
        st.just(("epoch",)),
        st.just(("epoch",)),
        st.tuples(
            st.sampled_from(["GERMINATE", "CULL", "FOSSILIZE", "STABILIZE"]),
            st.sampled_from(["s1", "s2", "s9"]),
            st.sampled_from(["residual", "plain", "wrong_shape", "negation", "moody", "nowhere", ""]),
        ),
    ),
    max_size=25,
)


@pytest.mark.requirement("R-KAS-3")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_facts_tell_the_whole_truth(make_lab, actions):
    """Whatever is asked in whatever order: moves are legal, facts alone give every stage, refusals change nothing."""
    lab = make_lab(SeedSettings(training_epochs=1, blend_epochs=1, embargo_epochs=1, probation_patience=2, **LENIENT))
    stages = {"s1": lifecycle.DORMANT, "s2": lifecycle.DORMANT}
    told = 0
    for action in actions:
        if action[0] == "step":
            lab.step()
        elif action[0] == "epoch":
            lab.epoch()
        else:
            before = lab.kasmina.state_dict()
            with suppress(CommandRefused):
                lab.keep(lab.kasmina.apply(lab.command(*action)))
            if len(lab.facts) == told:  # refused, for whatever was carried out has facts
                after = lab.kasmina.state_dict()
                assert after["scalars"] == before["scalars"]
                assert all(torch.equal(after["tensors"][name], tensor) for name, tensor in before["tensors"].items())
        for fact in lab.facts[told:]:
            if isinstance(fact, SeedTransitioned):
                assert fact.from_stage == stages[fact.seed_id]
                assert lifecycle.is_legal(fact.from_stage, fact.to_stage)
                stages[fact.seed_id] = fact.to_stage
        told = len(lab.facts)
        assert {o.seed_id: o.stage for o in lab.kasmina.observations()} == stages
        passes = [fact for fact in lab.facts if isinstance(fact, GateEvaluated) and fact.passed]
        moves = [fact for fact in lab.facts if isinstance(fact, SeedTransitioned)]
        assert len(passes) == sum(lifecycle.move(fact.from_stage, fact.to_stage).gate is not None for fact in moves)
