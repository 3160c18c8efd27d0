"""A seed's whole life through the facade: dwell, gates, patience, embargo, reset, and what the facts say of it."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.leyline.v1.event_pb2 import GateEvaluated, KernelAttached, SeedTransitioned
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.seed import ramp
from esper.kasmina.settings import SeedSettings

FULL_LIFE = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"]
LENIENT = {"benefit_z": 0.0, "regression_z": 1e6, "harm_z": 1e6, "drift_z": 1e6}


def grown(make_lab, **changes):
    """A lab whose seed helps: everything the task needs is learnt through it, because the host itself stands still."""
    lab = make_lab(SeedSettings(**({"harm_z": 1e6, "drift_z": 1e6, "regression_z": 1e6} | changes)))
    lab.epoch()
    lab.germinate("residual")
    return lab


def test_stages_take_the_time_that_the_settings_say(make_lab):
    lab = grown(make_lab, training_epochs=2, blend_epochs=3, shadow_epochs=2, probation_epochs=2)
    assert lab.stage() == lifecycle.GERMINATED
    lab.step()
    assert lab.stage() == lifecycle.TRAINING
    seen = []
    for _ in range(9):
        lab.epoch()
        seen.append(lifecycle.name(lab.stage()))
    expected = ["TRAINING"] + ["BLENDING"] * 3 + ["SHADOWING"] * 2 + ["PROBATIONARY"] * 3
    assert seen == expected
    assert lab.moves() == FULL_LIFE
    assert lab.gates() == [
        ("G0_SANITY", True),
        ("G1_GRADIENT_HEALTH", True),
        ("G2_STABILITY", True),
        ("G3_INTERFACE", True),
    ]


@pytest.mark.parametrize("stage", [lifecycle.TRAINING, lifecycle.BLENDING, lifecycle.SHADOWING, lifecycle.PROBATIONARY])
def test_no_stage_is_crossed_without_a_step(make_lab, stage):
    """R-KAS-12: epoch ends alone, without an optimiser step between them, move nothing on."""
    lab = grown(make_lab, training_epochs=1, blend_epochs=1)
    lab.step()
    lab.until(stage)
    for _ in range(4):
        facts = lab.kasmina.end_epoch(lab.probe)
        assert facts == []
    with pytest.raises(CommandRefused, match=r"dwell_not_over|illegal_transition"):
        lab.kasmina.apply(lab.command("FOSSILIZE"))


def test_fossilize_and_after(make_lab):
    """R-KAS-11: by command from PROBATIONARY; then it is host: mixed in for good, learning, and never culled."""
    lab = grown(make_lab, benefit_z=0.0)
    lab.until(lifecycle.PROBATIONARY, epochs=12)
    lab.epoch()
    contribution = lab.observe().contribution
    facts = lab.keep(lab.kasmina.apply(lab.command("FOSSILIZE")))
    verdict = facts[0]
    assert isinstance(verdict, GateEvaluated)
    assert next(m.value for m in verdict.measurements if m.name == "contribution") == pytest.approx(contribution)
    assert verdict.passed == (contribution > 0)
    assert lab.stage() == lifecycle.FOSSILIZED, verdict
    assert facts[1].command_id == bytes(15) + b"\x07"
    assert lab.kasmina.summary() == {"germinated": 1, "fossilized": 1, "culled": 0}
    before = lab.kasmina.state_dict()
    for operation in ("CULL", "GERMINATE", "FOSSILIZE"):
        with pytest.raises(CommandRefused):
            lab.kasmina.apply(lab.command(operation, blueprint="residual"))
    assert lab.stage() == lifecycle.FOSSILIZED
    lab.epoch()
    after = lab.kasmina.state_dict()
    assert not torch.equal(before["tensors"]["s1.module.up.weight"], after["tensors"]["s1.module.up.weight"])


def test_frozen_fossils_stay_as_they_are(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct", freeze_fossils=True))
    lab.germinate("plain")
    assert lab.kasmina.trainable() == {}
    before = lab.kasmina.modules()["s1"].weight.clone()
    lab.epoch()
    assert torch.equal(lab.kasmina.modules()["s1"].weight, before)
    assert lab.kasmina.modules()["s1"].weight.grad is None


def test_direct_insertion_walks_the_table_without_gates(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.germinate("residual")
    assert lab.moves() == [*FULL_LIFE, "FOSSILIZED"]
    assert lab.gates() == []
    assert {fact.reason for fact in lab.facts[2:]} == {"direct"}
    assert lab.observe().alpha == 1.0
    assert list(lab.kasmina.trainable()) == ["s1"]
    before = lab.kasmina.modules()["s1"].up.weight.clone()
    lab.epoch()
    assert not torch.equal(lab.kasmina.modules()["s1"].up.weight, before)


def test_a_harmful_seed_is_found_before_it_touches_the_host(make_lab):
    """G1 tries the seed at its target alpha on the probe set; it is culled without one mixed training step."""
    lab = make_lab(SeedSettings())
    for _ in range(40):
        lab.epoch()
    lab.germinate("negation")
    lab.until(lifecycle.EMBARGOED)
    assert lab.moves() == ["GERMINATED", "TRAINING", "CULLED", "EMBARGOED"]
    verdict = [fact for fact in lab.facts if isinstance(fact, GateEvaluated)][-1]
    assert verdict.reason.startswith("trial_contribution is -")
    assert "gate_failure" in lab.told()


def test_a_seed_of_the_wrong_shape_fails_g0(make_lab):
    lab = make_lab()
    lab.germinate("wrong_shape")
    lab.step()
    assert lab.moves() == ["GERMINATED", "CULLED", "EMBARGOED"]
    assert lab.gates() == [("G0_SANITY", False)]


def test_a_seed_that_adds_nothing_fails_g4(make_lab):
    """Dependence is asked for strictly: the identity neither helps nor harms and must go."""
    lab = make_lab(SeedSettings(**{**LENIENT, "benefit_z": 1.0}))
    lab.epoch()
    lab.germinate("identity")
    lab.until(lifecycle.PROBATIONARY)
    lab.epoch()
    facts = lab.keep(lab.kasmina.apply(lab.command("FOSSILIZE")))
    assert not facts[0].passed
    assert facts[0].reason == "contribution is 0, not > 0"
    assert lab.moves()[-2:] == ["CULLED", "EMBARGOED"]
    assert lab.kasmina.summary() == {"germinated": 1, "fossilized": 0, "culled": 1}
    assert lab.kasmina.probe_loss is None


def test_the_probe_loss_is_of_the_network_as_a_failed_gate_left_it(make_lab):
    """G2 looks at the network with the seed and then takes the seed out: the next decision must not see the former."""
    lab = make_lab(SeedSettings(**LENIENT))
    lab.germinate("moody")
    lab.until(lifecycle.BLENDING)
    module = lab.kasmina.modules()["s1"]
    module.angry = True
    lab.step()
    module.angry = False
    lab.until(lifecycle.EMBARGOED)
    assert ("G2_STABILITY", False) in lab.gates()
    assert lab.kasmina.probe_loss.mean == lab.probe().mean


def test_patience_is_spent(make_lab):
    lab = grown(make_lab, probation_patience=2)
    lab.until(lifecycle.PROBATIONARY, epochs=12)
    lab.epoch()
    lab.epoch()
    assert lab.stage() == lifecycle.PROBATIONARY
    lab.epoch()
    assert lab.stage() == lifecycle.EMBARGOED
    assert lab.facts[-2].reason == "patience spent: not fossilized in 2 epochs"


def test_embargo_and_reset_really_take_their_time(make_lab):
    """R-KAS-9 and R-KAS-10: five epoch ends EMBARGOED, one RESETTING, G5, and only then may it germinate again."""
    lab = make_lab()
    lab.germinate("residual")
    lab.epoch()
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    free_in = []
    stages = []
    while lab.stage() != lifecycle.DORMANT:
        stages.append(lifecycle.name(lab.stage()))
        free_in.append(lab.observe().epochs_until_free)
        with pytest.raises(CommandRefused, match="seed_embargoed"):
            lab.kasmina.apply(lab.command("GERMINATE", blueprint="residual"))
        lab.epoch()
    assert stages == ["EMBARGOED"] * 5 + ["RESETTING"]
    assert free_in == [6, 5, 4, 3, 2, 1]
    assert lab.observe().epochs_until_free == 0
    assert lab.gates()[-1] == ("G5_RESET", True)
    assert lab.moves()[-4:] == ["CULLED", "EMBARGOED", "RESETTING", "DORMANT"]
    lab.germinate("plain")
    assert (lab.observe().life, lab.observe().culls) == (2, 1)


def test_g5_keeps_a_slot_that_is_not_clean(make_lab):
    lab = make_lab(SeedSettings(embargo_epochs=1))
    lab.germinate("residual")
    lab.epoch()
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    lab.until(lifecycle.RESETTING)
    lab.kasmina._slots["s1"].violations = 2
    lab.epoch()
    assert lab.stage() == lifecycle.RESETTING
    assert lab.gates()[-1] == ("G5_RESET", False)
    lab.epoch()
    assert lab.stage() == lifecycle.DORMANT
    assert lab.gates()[-1] == ("G5_RESET", True)


def test_cull_leaves_nothing_behind(make_lab):
    lab = grown(make_lab)
    lab.until(lifecycle.BLENDING)
    lab.step()
    assert lab.hooks() == 1
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    assert lab.hooks() == 0
    assert lab.kasmina.modules() == {}
    assert lab.kasmina.trainable() == {}
    assert lab.observe().alpha == 0.0
    assert not any(name.startswith("s1.") for name in lab.kasmina.state_dict()["tensors"])


def test_shadowing_freezes_the_seed_and_holds_alpha(make_lab):
    """Ruling 9: as it is, not learning, in evaluation mode, while its contribution is measured."""
    lab = grown(make_lab, shadow_epochs=2)
    lab.until(lifecycle.SHADOWING)
    module = lab.kasmina.modules()["s1"]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert lab.kasmina.trainable() == {}
    lab.epoch()
    assert lab.stage() == lifecycle.SHADOWING
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert lab.observe().alpha == 1.0
    assert lab.observe().HasField("contribution")
    assert lab.observe().contribution_stderr > 0


def test_contribution_is_the_probe_loss_at_alpha_0_minus_as_it_is(make_lab):
    lab = grown(make_lab, probation_epochs=3)
    lab.until(lifecycle.PROBATIONARY, epochs=12)
    lab.epoch()
    as_it_is = lab.probe()
    module = lab.kasmina.modules()["s1"]
    with torch.no_grad():  # the seed's f is made zero by hand, which is alpha 0 for a residual seed
        module.up.weight.zero_()
        module.up.bias.zero_()
    without = lab.probe()
    assert lab.observe().contribution == pytest.approx(without.mean - as_it_is.mean, abs=1e-6)
    paired = (without.per_sample - as_it_is.per_sample).std() / 8
    assert lab.observe().contribution_stderr == pytest.approx(float(paired), rel=1e-4)


def test_loss_before_is_that_of_the_last_epoch_end(make_lab):
    lab = make_lab()
    lab.epoch()
    expected = lab.kasmina.probe_loss.mean
    lab.germinate()
    assert lab.observe().loss_before == pytest.approx(expected)
    late = make_lab()
    late.germinate()
    assert late.observe().loss_before == 0.0
    late.epoch()
    assert late.observe().loss_before == pytest.approx(late.kasmina.probe_loss.mean)


def test_alpha_ramps_from_0_to_1_and_never_falls():
    """R-KAS-17, at the default's 20 steps and at other lengths."""
    for total in (1, 4, 20, 48):
        values = [ramp(step, total, 0.1) for step in range(total + 3)]
        assert values[0] == 0.0
        assert values[total] == values[-1] == 1.0
        assert all(a <= b for a, b in pairwise(values))
    assert ramp(19, 20, 0.1) > 0.95
    assert ramp(10, 20, 0.1) == pytest.approx(0.5)


def test_alpha_advances_once_a_step_and_has_no_gradient(make_lab):
    lab = grown(make_lab, blend_epochs=2)
    lab.until(lifecycle.BLENDING)
    seen = []
    for number in range(8):
        lab.step(number)
        seen.append(lab.observe().alpha)
    assert seen == pytest.approx([ramp(step, 8, 0.1) for step in range(1, 9)])
    tensor = lab.kasmina._slots["s1"].alpha_like(torch.zeros(1))
    assert not tensor.requires_grad
    assert all(float(tensor) != id(p) and p is not tensor for p in lab.kasmina.trainable()["s1"])


def test_teardown_takes_every_hook_off(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.germinate("residual")
    assert lab.hooks() == 1
    facts = lab.kasmina.teardown()
    assert [fact.to_stage for fact in facts] == [lifecycle.TERMINATED] * 2
    assert lab.hooks() == 0


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
