"""`esper learn demo`: the whole loop with all processes, minutes long."""

from __future__ import annotations

import json

import pytest


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_the_loop_is_shown_whole_by_one_command(esper):
    told = json.loads(esper("learn", "demo", "--json", timeout_s=1_700).stdout)
    steps = {each["step"]: each for each in told["steps"]}

    assert told["complete"]
    assert list(steps) == [
        "initial policy",
        "runs",
        "rejected",
        "forks",
        "passed",
        "hot reload",
        "replay",
        "other decisions",
    ]
    assert set(steps["rejected"]["events"]) >= {"policy_trained", "policy_validated", "policy_rejected"}
    assert set(steps["passed"]["events"]) >= {"policy_trained", "policy_validated", "policy_update"}
    assert {name: len(found) for name, found in steps["hot reload"]["events"].items()} == {
        "policy_promoted": 1,
        "policy_loaded": 1,
        "decision_made": 2,
    }
    versions = {each["version"]: each["state"] for each in esper.json("policy", "list")}
    assert sorted(versions.values()) == ["live", "rejected", "retired"]
    assert "has a live policy" in esper("learn", "demo", code=2).stderr

    judged = esper(
        "learn", "train", "--rows", str(esper.data_dir / "learn" / "demo"), "--epochs", "1", "--json", code=1
    )
    made = json.loads(judged.stdout.splitlines()[-1])
    assert not made["passed"]  # a live policy that learnt from these forks is not beaten by one epoch more
    assert set(made["events"]) >= {"policy_trained", "policy_validated", "policy_rejected"}
