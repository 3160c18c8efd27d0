"""`esper sites`: the places of a task's model, or of a script's at its first batch, which nothing trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.cli.app import dispatch

SCRIPT = """\
import sys
import torch
from torch import nn

torch.manual_seed(int(sys.argv[1]))
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model = torch.compile(model)
for step in range(10):
    {before}
    loss = nn.CrossEntropyLoss()(model(torch.randn(6, 4)), torch.zeros(6, dtype=torch.long))
    raise AssertionError("a step was taken")
"""


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert dispatch(["sites", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_script_is_looked_at_when_its_model_gets_its_first_batch(tmp_path: Path, capsys) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(before="pass"))
    before = sys.argv, torch.compile, nn.Module.__call__

    found = {(each["site"], each["consumer"]): each for each in listed(capsys, str(script), "7")}

    assert list(found) == [("0", ""), ("1", ""), ("2", ""), ("0", "2")]
    assert (found["0", ""]["kind"], found["0", ""]["shape"]) == ("vector", [8])
    assert "BP009" in found["0", ""]["could_grow"]
    assert found["2", ""]["why_not"] == "it gives the same tensor as what the whole model gives"
    assert (sys.argv, torch.compile, nn.Module.__call__) == before


@pytest.mark.parametrize(("sites", "chosen"), [("'auto'", ["0", "1"]), ("('0',)", ["0"]), ("[('0', 'vector')]", ["0"])])
def test_a_script_has_the_sites_marked_that_its_run_takes(
    tmp_path: Path, capsys, sites: str, chosen: list[str]
) -> None:
    script = tmp_path / "train.py"
    probe = "probe=lambda model: model(torch.ones(6, 4)).sum(1)"
    script.write_text(
        SCRIPT.format(before=f"import esper; esper.grow(model, optimizer, {probe}, epochs=1, sites={sites})")
    )

    assert [each["site"] for each in listed(capsys, str(script), "7") if each["chosen"]] == chosen


def test_a_task_has_its_own_sites_marked(capsys) -> None:
    assert dispatch(["sites", "spirals"]) == 0

    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("layers.0 ")]
    assert line.split() == ["layers.0", "Sequential", "vector", "4", *line.split()[4:-1], "yes"]
    assert "layers.0.0 -> layers.1.0, wider" in out


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("break", "ran to its end, and no model with parameters was called"),
        ("open('nowhere.csv')", "ended before its model got a batch: FileNotFoundError"),
        ("sys.exit(3)", "ended before its model got a batch: SystemExit: 3"),
    ],
)
def test_a_script_without_a_batch_is_told(tmp_path: Path, capsys, before: str, said: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(before=before))

    assert dispatch(["sites", str(script), "7"]) == 2

    told = capsys.readouterr().err
    assert said in told
    assert f"{script}:10" in told or before == "break"
    assert dispatch(["sites", str(tmp_path / "none.py")]) == 2
