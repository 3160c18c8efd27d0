"""`esper drill`: the alerts of a running Esper that is broken from outside. One here, all under `-m soak`."""

from __future__ import annotations

import json
import os

import pytest

from esper.cli.app import dispatch
from esper.cli.drills.table import DRILLS
from tests.kafka import MISSING, Kafka

SCALE = "0.05"
SHORT = "isolation"
"""The quickest of those whose alert comes of what a trainer tells."""
LONG = [pytest.param(drill.name, marks=pytest.mark.soak) for drill in DRILLS if drill.name != SHORT]
PASSWORD = "correct-horse-battery-staple"


def played(capsys, *arguments):
    """The exit code, and what came of the drills."""
    code = dispatch(["drill", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])["drills"]


@pytest.mark.timeout(600)
@pytest.mark.requirement("R-OPS-7", "R-SEC-12")
@pytest.mark.parametrize("name", [SHORT, *LONG])
def test_what_is_broken_is_told_and_clears_and_the_run_ends_as_it_should(name, tmp_path, capsys):
    code, (drill,) = played(capsys, name, "--window-scale", SCALE, "--folder", str(tmp_path))

    assert (code, drill["verdict"]) == (0, "passed"), drill
    assert drill["expected"] in {"", *drill["seen"]}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.requirement("R-OPS-7")
def test_all_of_them_with_the_times_that_alerts_have(tmp_path, capsys):
    code, drills = played(capsys, "all", "--folder", str(tmp_path))

    assert code == 0, drills
    assert len(drills) == len(DRILLS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is all there")
def test_all_of_them_on_kafka(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """As a superuser, on brokers that may be stopped; what is not ours to break is said to be skipped."""
    cluster = Kafka(tmp_path_factory.mktemp("kafka"), PASSWORD)
    try:
        cluster.start()
        monkeypatch.setenv("ESPER_BROKERS", cluster.inside)
        monkeypatch.setenv("ESPER_KEY", os.urandom(32).hex())
        pids = [(path / "pid").read_text().strip() for path in sorted(cluster.folder.glob("node-*"))]
        stopped = [word for pid in pids for word in ("--broker-pid", pid)]
        code, drills = played(capsys, "all", "--window-scale", SCALE, "--folder", str(tmp_path), *stopped)

        assert code == 0, drills
        assert {each["drill"] for each in drills if each["verdict"] == "skipped"} == {"disk-full"}
    finally:
        cluster.kill()


def test_a_drill_that_there_is_not_is_named(capsys):
    assert dispatch(["drill", "disk-empty"]) == 2
    assert "there is no drill" in capsys.readouterr().err
    assert dispatch(["drill", "--list", "--json"]) == 0
