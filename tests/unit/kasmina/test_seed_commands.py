"""Commands: what is refused, with which word, and that a refusal changes nothing (R-KAS-4, R-KAS-20, R-KAS-48)."""

from __future__ import annotations

import math

import pytest
import torch

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import InvalidInput
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.settings import SeedSettings


def refusal(lab, command):
    """The refusal that `command` gets; fails where it is carried out or changes anything."""
    before = lab.kasmina.state_dict()
    random_state = torch.get_rng_state()
    with pytest.raises(CommandRefused) as caught:
        lab.kasmina.apply(command)
    after = lab.kasmina.state_dict()
    assert after["scalars"] == before["scalars"]
    assert after["tensors"].keys() == before["tensors"].keys()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.requirement("R-KAS-4", "R-TAM-18")
@pytest.mark.parametrize(
    ("operation", "seed_id", "blueprint", "parameters", "reason"),
    [
        ("GERMINATE", "s1", "", {}, "missing_blueprint"),
        ("GERMINATE", "s1", "BP999", {}, "unknown_blueprint"),
        ("GERMINATE", "s1", "residual", {"width": math.nan}, "bad_parameters"),
        ("GERMINATE", "s1", "residual", {"width": math.inf}, "bad_parameters"),
        ("GERMINATE", "s9", "residual", {}, "unknown_seed"),
        ("CULL", "s1", "", {}, "illegal_transition"),
        ("FOSSILIZE", "s1", "", {}, "illegal_transition"),
    ],
)
def test_refused_while_dormant(lab, operation, seed_id, blueprint, parameters, reason):
    assert refusal(lab, lab.command(operation, seed_id, blueprint, **parameters)).reason == reason
    assert lab.stage() == lifecycle.DORMANT


@pytest.mark.requirement("R-KAS-48")
@pytest.mark.parametrize(
    "operation",
    ["UNKNOWN", "START_TRAINING", "START_GRAFTING", "STABILIZE", "EVALUATE", "FINE_TUNE", "CANCEL"],
)
def test_unsupported_operations_have_their_own_event(lab, operation):
    refused = refusal(lab, lab.command(operation))
    assert refused.reason == "unsupported_seed_operation"
    assert f"SEED_OPERATION_{operation}" in refused.detail
    assert lab.told() == ["unsupported_seed_operation"]


@pytest.mark.requirement("R-KAS-48")
@pytest.mark.parametrize("kind", [value for value in leyline.CommandType.values() if value != 1] + [99])
def test_unsupported_commands_have_their_own_event(lab, kind):
    command = lab.command("CULL")
    command.command_type = kind
    assert refusal(lab, command).reason == "unsupported_command"
    assert lab.told() == ["unsupported_command"]


def test_a_seed_command_without_an_operation_is_refused(lab):
    command = lab.command("CULL")
    command.ClearField("payload")
    assert refusal(lab, command).reason == "missing_payload"


def test_germinate_is_refused_while_a_seed_lives(lab):
    lab.germinate()
    assert refusal(lab, lab.command("GERMINATE", blueprint="plain")).reason == "seed_busy"


def test_cull_and_fossilize_refusals_by_stage(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.germinate()
    assert refusal(lab, lab.command("CULL")).reason == "seed_fossilized"
    assert refusal(lab, lab.command("GERMINATE", blueprint="plain")).reason == "seed_busy"
    lab = make_lab()
    lab.germinate()
    assert refusal(lab, lab.command("FOSSILIZE")).reason == "illegal_transition"
    lab.keep(lab.kasmina.apply(lab.command("CULL")))
    assert refusal(lab, lab.command("CULL")).reason == "illegal_transition"


def test_fossilize_waits_for_the_dwell(make_lab):
    lab = make_lab(SeedSettings(harm_z=1e6, drift_z=1e6))
    lab.germinate()
    lab.until(lifecycle.PROBATIONARY)
    assert refusal(lab, lab.command("FOSSILIZE")).reason == "dwell_not_over"


@pytest.mark.requirement("R-KAS-20")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"blend_mode": "CHANNEL"}, "0 factors for a site of 6 channels"),
        ({"blend_mode": "CHANNEL", "alpha_vec": str([0.5] * 65)}, "at most 64"),
        ({"blend_mode": "CONFIDENCE"}, "needs logits"),
        ({"blend_mode": "MELT"}, "cannot be read"),
        ({"blend_mode": "RESIDUAL"}, "would add h twice"),
    ],
)
def test_a_blend_that_cannot_be_had_is_a_critical_dependency(lab, words, why):
    command = lab.command("GERMINATE", blueprint="residual")
    command.annotations.update(words)
    refused = refusal(lab, command)
    assert (refused.reason, refused.critical) == ("blend_unavailable", True)
    assert why in refused.detail
    packet = lab.kasmina.drain_telemetry()[0]
    assert (packet.level, packet.events[0].event_id) == (leyline.TELEMETRY_LEVEL_CRITICAL, "blend_dependency_missing")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidInput("factor is 9, at most 8"), "blueprint_refused"), (ZeroDivisionError("oops"), "build_failed")],
)
def test_a_blueprint_that_cannot_be_built_is_refused(lab, error, reason):
    def fail():
        raise error

    lab.blueprints["injected"] = fail
    assert refusal(lab, lab.command("GERMINATE", blueprint="injected")).reason == reason


def test_blend_mode_of_a_command_is_used(lab):
    command = lab.command("GERMINATE", blueprint="residual")
    command.annotations.update({"blend_mode": "CHANNEL", "alpha_vec": "[1, 1, 1, 0, 0, 0]"})
    attached = lab.kasmina.apply(command)[1]
    assert attached.blend_mode == leyline.BLEND_MODE_CHANNEL


def test_a_command_id_that_is_no_uuid_still_works(lab):
    command = lab.command("GERMINATE", blueprint="residual")
    command.command_id = "by hand"
    assert lab.kasmina.apply(command)[0].command_id == b""
