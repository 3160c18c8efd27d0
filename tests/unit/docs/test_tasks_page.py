"""The page about tasks is true: its example is a task, measured in its unit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from esper.tolaria.dry_run import try_task
from esper.tolaria.tasks import user_task
from esper.tolaria.tasks.task import evaluate

PAGE = Path(__file__).parents[3] / "docs/tasks.md"


def test_its_example_is_a_task_that_is_measured_in_mm(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "parts.py"
    file.write_text(example, encoding="utf-8")
    task = user_task(f"{file}:parts")
    try_task(task, torch.device("cpu"))
    network = task.make_host()
    with torch.no_grad():
        missed = 12.5 * (network(task.test.inputs) - task.test.targets).abs().mean()

    mae, r2 = evaluate(network, task, task.test).figures

    assert (mae.label, r2.label) == ("mae (mm, lower is better)", "r2")
    assert mae.value == pytest.approx(float(missed), rel=1e-5)
    assert mae.stderr > 0
    assert r2.stderr is None
