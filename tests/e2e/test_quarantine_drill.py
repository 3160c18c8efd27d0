"""A quarantine drill from the command line: refused without an approval, and what must stop the stressor does."""

from __future__ import annotations

import json


def test_an_approved_stressor_germinates_in_a_drill_and_is_stopped(esper) -> None:
    refused = esper("run", "--drill", "BP044", code=2)
    esper("blueprints", "approve", "BP044", "--by", "ada", "--why", "a drill")
    drilled = esper.json("run", "--drill", "bp044", "--pool", "BP009", "--no-control", "--epochs", "8")
    moves = esper("events", drilled["run_id"], "--type", "seed_transitioned", "--json")
    told = [json.loads(line)["body"] for line in moves.stdout.splitlines()]

    assert "BP044 vanishing_gradient is high_risk and not approved; see `esper blueprints approve" in refused.stderr
    culled = [move["reason"] for move in told if move["to_stage"] == "SEED_LIFECYCLE_STAGE_CULLED"]
    assert culled[0].startswith("G1_GRADIENT_HEALTH failed: gradient_norm is "), told
