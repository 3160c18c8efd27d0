"""The container's health check, on the health pages of real processes' kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streams import healthcheck
from streams.entry import scraped
from streams.health import HealthServer
from streams.healthcheck import troubles
from streams.metrics import Metrics

DOCKERFILE = Path(__file__).parents[3] / "deploy" / "Dockerfile"


@pytest.mark.parametrize(("said", "found"), [(None, []), ("the log is away", ["worker is not well"])])
def test_it_says_who_is_not_well(tmp_path, monkeypatch, said, found):
    monkeypatch.setattr(healthcheck, "ANSWER_S", 60.0)  # the machine may be busy
    (tmp_path / "service.json").write_text(json.dumps({"state": "ready"}))
    (tmp_path / "trainer-k3f9.json").write_text(json.dumps([{"targets": ["127.0.0.1:9"]}]))
    with (
        HealthServer("worker", Metrics(), checks={"log": lambda: said}) as health,
        scraped(tmp_path / "worker.json", "worker", health.port),
    ):
        lines, dead = troubles(tmp_path), troubles(tmp_path, alive=True)

    assert dead == []  # whoever waits for the log is not to be started anew
    assert [line.partition(":")[0] for line in lines] == found
    assert said is None or said in lines[0]


def test_one_that_has_died_and_none_at_all_are_told(tmp_path):
    assert troubles(tmp_path) == [f"no process of {tmp_path.parent} runs; start them with `esper up`"]
    (tmp_path / "worker.json").write_text(json.dumps([{"targets": ["127.0.0.1:9"]}]))
    (line,) = troubles(tmp_path, alive=True)

    assert line.startswith("worker does not answer at 127.0.0.1:9")


def test_the_image_has_it_a_compiler_and_another_user_than_root():
    lines = DOCKERFILE.read_text("utf-8").splitlines()

    assert any(line.startswith("HEALTHCHECK") and "streams.healthcheck" in line for line in lines)
    assert lines.index("USER 1000") < lines.index('CMD ["esper", "up"]')
    assert any("g++" in line for line in lines)
