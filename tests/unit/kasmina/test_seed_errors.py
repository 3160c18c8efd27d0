"""R-KAS-27 and R-KAS-37: a seed that fails lets the host through, says so, and training continues."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina import lifecycle
from esper.kasmina.settings import SeedSettings
from esper.kasmina.telemetry import MAX_PENDING, Outbox


def angry_lab(make_lab, stage):
    lab = make_lab(SeedSettings(training_epochs=3, harm_z=1e6, drift_z=1e6), sites=("act",))
    lab.epoch()
    lab.germinate("moody")
    lab.step()
    lab.until(stage)
    lab.kasmina.drain_telemetry()
    lab.kasmina.modules()["s1"].angry = True
    return lab


@pytest.mark.requirement("R-KAS-27")
@pytest.mark.parametrize("stage", [lifecycle.BLENDING, lifecycle.SHADOWING, lifecycle.PROBATIONARY])
def test_the_hosts_activations_pass_through_bit_for_bit(make_lab, stage):
    lab = angry_lab(make_lab, stage)
    host = lab.host.eval()
    with torch.no_grad():
        expected = host.last(torch.tanh(host.second(torch.tanh(host.norm(host.first(lab.inputs))))))
        assert torch.equal(host(lab.inputs), expected)
    host.train()
    weights = host.first.weight.clone()
    lab.step()
    assert not torch.equal(weights, host.first.weight)
    packet = lab.kasmina.drain_telemetry()[0]
    assert packet.level == leyline.TELEMETRY_LEVEL_ERROR
    event = packet.events[0]
    assert event.event_id == "seed_forward_error"
    assert event.attributes["error"] == "RuntimeError: the seed is angry"
    assert event.attributes["stage"] == lifecycle.name(stage)


def test_an_error_in_the_side_pass_teaches_nothing_and_fails_g1(make_lab):
    lab = angry_lab(make_lab, lifecycle.TRAINING)
    before = lab.kasmina.modules()["s1"].down.weight.clone()
    lab.step()
    assert torch.equal(lab.kasmina.modules()["s1"].down.weight, before)
    assert "seed_forward_error" in lab.told()
    lab.until(lifecycle.EMBARGOED)
    assert lab.gates()[-1] == ("G1_GRADIENT_HEALTH", False)


def test_an_error_fails_the_next_gate_even_if_the_seed_calms_down(make_lab):
    lab = angry_lab(make_lab, lifecycle.BLENDING)
    lab.step()
    lab.kasmina.modules()["s1"].angry = False
    lab.until(lifecycle.EMBARGOED)
    assert lab.gates()[-1] == ("G2_STABILITY", False)


def test_a_seed_that_changes_its_shape_is_an_error(make_lab):
    lab = angry_lab(make_lab, lifecycle.BLENDING)
    module = lab.kasmina.modules()["s1"]
    module.angry = False
    module.forward = lambda h: h[:, :3]
    lab.step()
    event = lab.kasmina.drain_telemetry()[0].events[0]
    assert event.attributes["error"] == "ValueError: gives (16, 3) for an activation of (16, 6)"


def test_random_state_is_given_back_after_an_error(make_lab):
    lab = angry_lab(make_lab, lifecycle.BLENDING)
    lab.host.drop.p = 0.0
    state = torch.get_rng_state()
    lab.host(lab.inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.requirement("R-KAS-37", "R-OPS-13")
def test_queue_is_bounded_and_says_how_much_it_dropped():
    outbox = Outbox()
    for _ in range(MAX_PENDING + 7):
        outbox.tell("s1", "seed_forward_error", leyline.TELEMETRY_LEVEL_ERROR, error="x")
    outbox.tell("s2", "gate_failure", leyline.TELEMETRY_LEVEL_CRITICAL)
    first, second = outbox.drain()
    assert len(first.events) == MAX_PENDING + 1
    assert first.events[-1].event_id == "seed_queue_dropped"
    assert first.events[-1].attributes["dropped"] == "7"
    assert (first.level, second.level) == (leyline.TELEMETRY_LEVEL_ERROR, leyline.TELEMETRY_LEVEL_CRITICAL)
    assert first.packet_id != second.packet_id
    assert outbox.drain() == []
