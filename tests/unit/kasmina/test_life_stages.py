"""A seed's whole life through the facade: how long it dwells, what each stage holds still, what is left of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from contracts.leyline.v1.event_pb2 import GateEvaluated
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.seed import ramp
from esper.kasmina.settings import SeedSettings

FULL_LIFE = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"]


def test_stages_take_the_time_that_the_settings_say(grown):
    lab = grown(training_epochs=2, blend_epochs=3, shadow_epochs=2, probation_epochs=2)
    module = lab.kasmina.modules()["s1"]
    assert lab.stage() == lifecycle.GERMINATED
    assert not any(parameter.requires_grad for parameter in module.parameters()), "it waits"
    lab.step()
    assert lab.stage() == lifecycle.TRAINING
    assert all(parameter.requires_grad for parameter in module.parameters())
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


@pytest.mark.requirement("R-KAS-12")
@pytest.mark.parametrize("stage", [lifecycle.TRAINING, lifecycle.BLENDING, lifecycle.SHADOWING, lifecycle.PROBATIONARY])
def test_no_stage_is_crossed_without_a_step(grown, stage):
    """R-KAS-12: epoch ends alone, without an optimiser step between them, move nothing on."""
    lab = grown(training_epochs=1, blend_epochs=1)
    lab.step()
    lab.until(stage)
    for _ in range(4):
        facts = lab.kasmina.end_epoch(lab.probe)
        assert facts == []
    with pytest.raises(CommandRefused, match=r"dwell_not_over|illegal_transition"):
        lab.kasmina.apply(lab.command("FOSSILIZE"))


@pytest.mark.requirement("R-KAS-11")
def test_fossilize_and_after(grown):
    """R-KAS-11: by command from PROBATIONARY; then it is host: mixed in for good, learning, and never culled."""
    lab = grown(benefit_z=0.0)
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


@pytest.mark.requirement("R-KAS-10")
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


def test_cull_leaves_nothing_behind(grown):
    lab = grown()
    lab.until(lifecycle.BLENDING)
    lab.step()
    assert lab.hooks() == 1
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    assert lab.hooks() == 0
    assert lab.kasmina.modules() == {}
    assert lab.kasmina.trainable() == {}
    assert lab.observe().alpha == 0.0
    assert not any(name.startswith("s1.") for name in lab.kasmina.state_dict()["tensors"])


def test_shadowing_freezes_the_seed_and_holds_alpha(grown):
    """Ruling 9: as it is, not learning, in evaluation mode, while its contribution is measured."""
    lab = grown(shadow_epochs=2)
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


@pytest.mark.requirement("R-KAS-17")
def test_alpha_ramps_from_0_to_1_and_never_falls():
    """R-KAS-17, at the default's 20 steps and at other lengths."""
    for total in (1, 4, 20, 48):
        values = [ramp(step, total, 0.1) for step in range(total + 3)]
        assert values[0] == 0.0
        assert values[total] == values[-1] == 1.0
        assert all(a <= b for a, b in pairwise(values))
        assert all(value < 1.0 for value in values[:total])
    assert ramp(19, 20, 0.1) > 0.95
    assert ramp(10, 20, 0.1) == pytest.approx(0.5)


@pytest.mark.requirement("R-TOL-4")
def test_alpha_advances_once_a_step_and_has_no_gradient(grown):
    lab = grown(blend_epochs=2)
    lab.until(lifecycle.BLENDING)
    seen = []
    for number in range(8):
        lab.step(number)
        seen.append(lab.observe().alpha)
    assert seen == pytest.approx([ramp(step, 8, 0.1) for step in range(1, 9)])
    slot = lab.kasmina._slots["s1"]
    tensor = slot.alpha_like(torch.zeros(1))
    learnt = {parameter.data_ptr() for parameter in lab.kasmina.trainable()["s1"]}
    assert float(tensor) == pytest.approx(seen[-1])
    assert not tensor.requires_grad
    assert tensor.data_ptr() not in learnt
    assert tensor.data_ptr() not in {each.data_ptr() for each in slot.occupant().module.state_dict().values()}


def test_teardown_takes_every_hook_off(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.germinate("residual")
    assert lab.hooks() == 1
    facts = lab.kasmina.teardown()
    assert [fact.to_stage for fact in facts] == [lifecycle.TERMINATED] * 2
    assert lab.hooks() == 0
