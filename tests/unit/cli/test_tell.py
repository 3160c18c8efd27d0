"""`esper tell`: a run in a person's own loop, which trains in another thread, is told and says what it made of it."""

from __future__ import annotations

import json

import pytest

from esper.cli.app import dispatch
from esper.cli.tell import tell_run
from esper.errors import InvalidInput
from tests.endless import endless_run


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with endless_run(tmp_path / "data", log=None, policy="heuristic") as training:
        yield training


def test_a_run_is_told_and_answers(training, tmp_path, capsys):
    data = ["--data-dir", str(tmp_path / "data")]

    def tell(*words: str) -> tuple[int, dict]:
        code = dispatch(["tell", "told", *words, "--json", *data])
        return code, json.loads(capsys.readouterr().out)

    code, halved = tell("rate", "0.5")
    assert (code, halved["outcome"], halved["told"]) == (0, "applied", "rate 0.5")
    assert [each["body"]["new_lr"] for each in halved["effects"]] == [pytest.approx(0.005)]

    code, refused = tell("cull s1")
    assert (code, refused["outcome"], refused["reason"]) == (1, "rejected", "illegal_transition")

    code, paused = tell("pause")
    assert code == 0
    assert dispatch(["runs", *data]) == 0
    assert "paused" in capsys.readouterr().out
    _, twice = tell("pause")
    assert (twice["reason"], twice["step"]) == ("already_paused", paused["step"])  # it has taken no step since

    assert tell("resume")[0] == 0
    assert dispatch(["tell", "told", "grow bigger", *data]) == 2
    assert "nothing that a run can be told" in capsys.readouterr().err

    with pytest.raises(InvalidInput, match="an emergency and no command; signal it by `esper tell RUN halt now`"):
        tell_run(tmp_path / "data", "told", "halt now")
    code, heeded = tell("caution smoke in the room")
    assert (code, heeded["outcome"], heeded["ways"]) == (0, "heeded", ["the flag"])
    assert heeded["effect"]["body"]["reason"] == "smoke in the room"
    code, halted = tell("halt fire")
    assert (code, halted["effect"]["type"]) == (0, "run_finished")
    assert halted["effect"]["body"]["reason"] == "emergency: fire"


def test_a_run_that_is_over_cannot_be_told_anything(training, tmp_path, capsys):
    training.growth.stop()
    training.join(60)

    assert dispatch(["tell", "told", "pause", "--data-dir", str(tmp_path / "data")]) == 2
    assert "was interrupted; `esper resume told`" in capsys.readouterr().err
