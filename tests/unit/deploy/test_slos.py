"""Objectives: the rules for Prometheus are those of the code, and do what the Site Reliability Workbook says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from esper.nissa.catalogue import BY_NAME
from esper.nissa.slos import BURNS, OBJECTIVES, as_json
from projections.views import read_sql
from tests.unit.deploy.test_deploy import NAME, emitted, metric

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: `apt-get install prometheus` brings it")


def promtool(*arguments: str, at: Path = DEPLOY) -> None:
    done = subprocess.run([PROMTOOL, *arguments], cwd=at, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_those_of_the_code():
    assert (DEPLOY / "slo.yml").read_text("utf-8") == as_json(), "make it by `python -m esper.nissa.slos deploy`"
    assert yaml.safe_load(as_json()) == json.loads(as_json())


@pytest.mark.requirement("R-OONA-24")
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_an_objective_counts_only_metrics_that_the_code_emits(objective):
    names = {metric(name) for name in NAME.findall(objective.errors + objective.total)}

    assert names
    assert names <= set(BY_NAME) & emitted()


def test_the_view_has_the_objectives_that_are_on_record():
    text = read_sql("slos")

    for each in OBJECTIVES:
        assert (f"('{each.name}', '{each.kind}', {each.share:g})" in text) == each.on_record


@pytest.mark.requirement("R-NIS-14")
def test_each_burn_rate_spends_what_the_workbook_says():
    """Table 5-8: 2 % in an hour, 5 % in six, 10 % in a day and in three; R-NIS-14: 40 % in a day."""
    hours = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
    spent = [round(burn.rate * hours[burn.long] / 720, 4) for burn in BURNS]

    assert spent == [0.02, 0.05, 0.4, 0.1, 0.1]


@needs_promtool
def test_prometheus_takes_the_rules_and_its_configuration(tmp_path):
    promtool("check", "rules", "slo.yml", "alerts.yml")
    configuration = (DEPLOY / "prometheus.yml").read_text("utf-8")
    for name in ("slo.yml", "alerts.yml"):
        (tmp_path / name).write_text((DEPLOY / name).read_text("utf-8"), "utf-8")
    (tmp_path / "prometheus.yml").write_text(configuration, "utf-8")
    promtool("check", "config", "prometheus.yml", at=tmp_path)


@needs_promtool
@pytest.mark.requirement("R-NIS-14", "R-NIS-15")
def test_rules_fire_and_clear_by_promtool():
    """`deploy/rules_test.yml`: what each series is, when which alert is on, and what objectives come to."""
    promtool("test", "rules", "rules_test.yml")
