"""The tables of docs/contracts.md cover every old word, and point only at values that exist (R-LEY-22)."""

from __future__ import annotations

import re

import pytest

from contracts.leyline.v1 import leyline_pb2

TABLES = {
    "Seed stages": {
        "GERMINATING ISOLATED_INIT COMPATIBILITY_CHECK": "SEED_LIFECYCLE_STAGE_GERMINATED",
        "GRAFTING": "SEED_LIFECYCLE_STAGE_BLENDING",
        "STABILIZING STABILIZATION": "SEED_LIFECYCLE_STAGE_SHADOWING",
        "EVALUATING FINE_TUNING ACTIVE HOLDING": "SEED_LIFECYCLE_STAGE_PROBATIONARY",
        "HARVESTING": "SEED_LIFECYCLE_STAGE_FOSSILIZED",
        "CULLING CANCELLED ROLLED_BACK PRUNED QUARANTINE": "SEED_LIFECYCLE_STAGE_CULLED",
        "COOLDOWN": "SEED_LIFECYCLE_STAGE_EMBARGOED",
        "RECYCLING": "SEED_LIFECYCLE_STAGE_RESETTING",
    },
    "Seed operations and the stage they aim at": {
        "GERMINATE": "SEED_LIFECYCLE_STAGE_GERMINATED",
        "START_TRAINING": "SEED_LIFECYCLE_STAGE_TRAINING",
        "START_GRAFTING": "SEED_LIFECYCLE_STAGE_BLENDING",
        "STABILIZE": "SEED_LIFECYCLE_STAGE_SHADOWING",
        "EVALUATE FINE_TUNE": "SEED_LIFECYCLE_STAGE_PROBATIONARY",
        "FOSSILIZE": "SEED_LIFECYCLE_STAGE_FOSSILIZED",
        "CULL CANCEL": "SEED_LIFECYCLE_STAGE_CULLED",
    },
    "Breakers": {
        "closed BREAKER_CLOSED 0": "CIRCUIT_BREAKER_STATE_CLOSED",
        "open BREAKER_OPEN 1": "CIRCUIT_BREAKER_STATE_OPEN",
        "half_open BREAKER_HALF_OPEN 2": "CIRCUIT_BREAKER_STATE_HALF_OPEN",
    },
    "Levels, severities, priorities": {
        "TELEMETRY_DEBUG TELEMETRY_INFO low conservative_exited policy_update_applied": "TELEMETRY_LEVEL_INFO",
        "TELEMETRY_WARN medium policy_update_rejected": "TELEMETRY_LEVEL_WARNING",
        "TELEMETRY_ERROR high": "TELEMETRY_LEVEL_ERROR",
        "TELEMETRY_FATAL critical": "TELEMETRY_LEVEL_CRITICAL",
        "EMERGENCY bp_quarantine rollback_deadline": "MESSAGE_PRIORITY_CRITICAL",
        "loss_spike isolation_violation hook_budget timeout_inference timeout_urza conservative_entered": (
            "MESSAGE_PRIORITY_HIGH"
        ),
    },
    "Emergencies and health": {
        "L1 MINOR": "EMERGENCY_LEVEL_NOTICE",
        "L2 MAJOR": "EMERGENCY_LEVEL_ELEVATED",
        "L3 SEVERE": "EMERGENCY_LEVEL_CONSERVATIVE",
        "L4 CRITICAL": "EMERGENCY_LEVEL_HALT",
        "normal": "HEALTH_STATUS_HEALTHY",
        "conservative": "HEALTH_STATUS_DEGRADED",
        "emergency": "HEALTH_STATUS_CRITICAL",
    },
    "Outcomes and blending": {
        "FOSSILIZED": "FIELD_REPORT_OUTCOME_SUCCESS",
        "CULLED": "FIELD_REPORT_OUTCOME_REGRESSION",
        "ROLLED_BACK": "FIELD_REPORT_OUTCOME_ABORTED",
        "CONVEX": "BLEND_MODE_CONVEX",
        "RESIDUAL": "BLEND_MODE_RESIDUAL",
        "CHANNEL": "BLEND_MODE_CHANNEL",
        "CONFIDENCE": "BLEND_MODE_CONFIDENCE",
    },
}
VALUES = {value.name for enum in leyline_pb2.DESCRIPTOR.enum_types_by_name.values() for value in enum.values}


def documented(root, heading: str) -> dict[str, str]:
    """The table under `heading`, old word to value."""
    section = (root / "docs/contracts.md").read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("|")][2:]
    code = [(re.findall(r"`([^`]+)`", old), re.findall(r"`([^`]+)`", new)) for old, new in rows]
    return {word: value for words, (value,) in code for word in words}


@pytest.mark.requirement("R-LEY-22")
@pytest.mark.parametrize("heading", TABLES)
def test_the_table_has_every_old_word_and_its_value(root, heading):
    expected = {word: value for words, value in TABLES[heading].items() for word in words.split()}

    assert documented(root, heading) == expected


@pytest.mark.parametrize("heading", TABLES)
def test_the_table_points_at_values_that_exist(root, heading):
    assert set(documented(root, heading).values()) <= VALUES


def test_every_operation_of_the_contract_aims_at_a_stage(root):
    operations = leyline_pb2.DESCRIPTOR.enum_types_by_name["SeedOperation"].values[1:]
    names = {value.name.removeprefix("SEED_OPERATION_") for value in operations if value.number < 100}  # published

    assert set(documented(root, "Seed operations and the stage they aim at")) == names


def test_every_stage_of_today_is_named_as_such(root):
    text = (root / "docs/contracts.md").read_text(encoding="utf-8")
    stages = leyline_pb2.DESCRIPTOR.enum_types_by_name["SeedLifecycleStage"].values[1:]

    assert [value.name for value in stages if f"`{value.name.removeprefix('SEED_LIFECYCLE_STAGE_')}`" not in text] == []
