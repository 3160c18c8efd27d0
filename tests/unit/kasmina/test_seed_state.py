"""Saving and restoring: bit-exact from any stage, into a fresh process's objects or back into the same ones."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from esper.errors import CorruptState
from esper.kasmina import lifecycle
from esper.kasmina.settings import SeedSettings

STAGES = [
    lifecycle.DORMANT,
    lifecycle.GERMINATED,
    lifecycle.TRAINING,
    lifecycle.BLENDING,
    lifecycle.SHADOWING,
    lifecycle.PROBATIONARY,
    lifecycle.FOSSILIZED,
    lifecycle.EMBARGOED,
    lifecycle.RESETTING,
]
SETTINGS = SeedSettings(
    training_epochs=1, blend_epochs=2, embargo_epochs=1, harm_z=1e6, drift_z=1e6, benefit_z=0.0, regression_z=1e6
)


def lab_in(make_lab, stage):
    """A lab whose s1 is in `stage`, with s2 in TRAINING half an epoch later, so that turns and streams have moved."""
    lab = make_lab(SETTINGS)
    lab.epoch()
    if stage != lifecycle.DORMANT:
        lab.germinate("residual")
    if stage in (lifecycle.EMBARGOED, lifecycle.RESETTING):
        lab.epoch()
        lab.keep(lab.kasmina.apply(lab.command("CULL")))
    if stage == lifecycle.TRAINING:
        lab.step()
    elif stage == lifecycle.FOSSILIZED:
        lab.until(lifecycle.PROBATIONARY)
        lab.epoch()
        lab.keep(lab.kasmina.apply(lab.command("FOSSILIZE")))
    lab.until(stage)
    if stage != lifecycle.GERMINATED:
        lab.germinate("residual", "s2")
        lab.step(1)
        lab.step(2)
    assert lab.stage() == stage
    return lab


def snapshot(lab):
    """What a checkpoint keeps: Kasmina through JSON, host, random state, and optimiser state by place."""
    saved = lab.kasmina.state_dict()
    return (
        {"scalars": json.loads(json.dumps(saved["scalars"])), "tensors": saved["tensors"]},
        copy.deepcopy(lab.host.state_dict()),
        torch.get_rng_state(),
        copy.deepcopy(lab.optimizer.state_dict()),
    )


def restore(lab, saved):
    kasmina, host, random_state, optimizer = saved
    lab.kasmina.load_state_dict(kasmina)
    lab.host.load_state_dict(host)
    lab.new_optimizer()
    lab.sync()
    lab.optimizer.load_state_dict(copy.deepcopy(optimizer))
    torch.set_rng_state(random_state)


def outcome(lab):
    """Train on for two epochs; everything that there is afterwards."""
    said = [fact.SerializeToString() for _ in range(2) for fact in lab.epoch()]
    saved = lab.kasmina.state_dict()
    return said, saved["scalars"], list(saved["tensors"].items()), list(lab.host.state_dict().items())


def assert_equal(left, right):
    assert left[0] == right[0]
    assert left[1] == right[1]
    for ours, theirs in zip(left[2] + left[3], right[2] + right[3], strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1]), ours[0]


@pytest.mark.parametrize("stage", STAGES, ids=lifecycle.name)
def test_restored_into_new_objects_it_goes_on_bit_for_bit(make_lab, stage):
    lab = lab_in(make_lab, stage)
    saved = snapshot(lab)
    expected = outcome(lab)
    fresh = make_lab(SETTINGS, seed=99)
    fresh.inputs, fresh.targets = lab.inputs, lab.targets
    fresh.probe_inputs, fresh.probe_targets = lab.probe_inputs, lab.probe_targets
    restore(fresh, saved)
    assert fresh.kasmina.observations() == expected_observations(make_lab, stage)
    assert_equal(outcome(fresh), expected)


def expected_observations(make_lab, stage):
    return lab_in(make_lab, stage).kasmina.observations()


@pytest.mark.parametrize("stage", STAGES, ids=lifecycle.name)
def test_rolled_back_in_place_it_repeats_bit_for_bit(make_lab, stage):
    lab = lab_in(make_lab, stage)
    saved = snapshot(lab)
    modules = lab.kasmina.modules()
    expected = outcome(lab)
    restore(lab, saved)
    assert_equal(outcome(lab), expected)
    for seed_id, module in lab.kasmina.modules().items():
        if seed_id in modules and lab.observe(seed_id).life == 1:
            assert module is modules[seed_id]


def test_rollback_over_a_cull_brings_the_seed_back(make_lab):
    lab = lab_in(make_lab, lifecycle.BLENDING)
    saved = snapshot(lab)
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    restore(lab, saved)
    assert lab.stage() == lifecycle.BLENDING
    assert lab.hooks() == 1
    assert list(lab.kasmina.trainable()) == ["s1", "s2"]


def test_rollback_over_a_germination_takes_the_seed_away(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.epoch()
    saved = snapshot(lab)
    lab.germinate("plain")
    assert lab.hooks() == 1
    restore(lab, saved)
    assert lab.hooks() == 0
    assert lab.stage() == lifecycle.DORMANT
    assert lab.kasmina.summary() == {"germinated": 0, "fossilized": 0, "culled": 0}


def test_a_snapshot_does_not_change_while_training_goes_on(make_lab):
    lab = lab_in(make_lab, lifecycle.BLENDING)
    saved = lab.kasmina.state_dict()
    kept = {name: tensor.clone() for name, tensor in saved["tensors"].items()}
    scalars = json.dumps(saved["scalars"])
    lab.epoch()
    assert json.dumps(saved["scalars"]) == scalars
    assert all(torch.equal(tensor, kept[name]) for name, tensor in saved["tensors"].items())


def test_state_that_does_not_fit_is_refused(make_lab):
    lab = lab_in(make_lab, lifecycle.BLENDING)
    saved = lab.kasmina.state_dict()
    with pytest.raises(CorruptState, match="saved seeds are version 1 of s1, s2; this network has version 1 of s1"):
        make_lab(SETTINGS, sites=("act",)).kasmina.load_state_dict(saved)
    missing = dict(saved["tensors"])
    del missing["s1.module.up.weight"]
    with pytest.raises(CorruptState, match="saved state of s1 does not fit residual"):
        make_lab(SETTINGS).kasmina.load_state_dict({"scalars": saved["scalars"], "tensors": missing})


def test_building_a_seed_moves_no_random_number(make_lab):
    lab = make_lab()
    state = torch.get_rng_state()
    lab.germinate("plain")
    assert torch.equal(torch.get_rng_state(), state)
