"""The page about tasks is true: its example is a task, measured in its unit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from esper.leyline.objects import ObjectStore
from esper.testing import FakeClock, MemoryLog
from esper.tolaria.config import RunConfig
from esper.tolaria.dry_run import try_task
from esper.tolaria.outside import Outside
from esper.tolaria.tasks import Task, user_task
from esper.tolaria.tasks.task import evaluate
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

PAGE = Path(__file__).parents[3] / "docs/tasks.md"


def task_of(folder: Path, number: int, function: str) -> Task:
    """The task that an example of the page makes, tried on one batch."""
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = folder / f"{function}.py"
    file.write_text(examples[number], encoding="utf-8")
    task = user_task(f"{file}:{function}")
    try_task(task, torch.device("cpu"))
    return task


def test_its_example_is_a_task_that_is_measured_in_mm(tmp_path):
    task = task_of(tmp_path, 0, "parts")
    network = task.make_host()
    with torch.no_grad():
        missed = 12.5 * (network(task.test.inputs) - task.test.targets).abs().mean()

    mae, r2 = evaluate(network, task, task.test).figures

    assert (mae.label, r2.label) == ("mae (mm, lower is better)", "r2")
    assert mae.value == pytest.approx(float(missed), rel=1e-5)
    assert mae.stderr > 0
    assert r2.stderr is None


def test_its_stream_is_learnt_by_its_own_optimiser_and_schedule(tmp_path):
    """Two epochs of it; the rate of the run's telemetry is what the schedule of the page says."""
    task = task_of(tmp_path, 1, "stream")
    objects, clock = ObjectStore(tmp_path / "objects"), FakeClock().clock
    log = MemoryLog(clock, objects=objects)
    config = RunConfig(task="stream.py:stream", epochs=2, decision_timeout_s=None)

    result = train(config, task, LiveWorld(Outside(log, clock, objects)), run_id="run")

    points = [point for packet in log.bodies("telemetry_packet") for point in packet.metrics]
    rates = [point.value for point in points if point.name == "tolaria.lr_controller.current_lr"]
    torchs = task.make_scheduler(task.make_optimizer(task.make_host()))
    expected = [[torchs.optimizer.step(), torchs.step(), torchs.get_last_lr()[0]][-1] for _ in range(100)]
    (digested,) = [event for event in log.events if event.HasField("checkpoint_saved") and event.epoch == 2][:1]
    assert rates == pytest.approx([expected[49], expected[99]])
    assert result.metrics[0]["unit"] == "mm"
    assert digested.global_step == 100
