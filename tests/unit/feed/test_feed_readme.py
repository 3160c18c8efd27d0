"""The README's example does what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "streams" / "feed" / "README.md"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
def test_the_example_runs_and_prints_the_reports(data_dir, made, events_of, tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "esper-data").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    exec(example, names)

    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.split()[0]) for line in lines) == len(events_of(made, "field_report"))
    assert names["state"]
