"""A person's print() and breakpoint(): shown and refused under `esper run`, and at work with --in-process."""

from __future__ import annotations

import subprocess

TASK = """\
from pathlib import Path
import torch
from torch import nn
from esper.tolaria.tasks import Site, Task

class Net(nn.Sequential):
    asked = False

    def forward(self, x):
        if self.training and not Net.asked:
            Net.asked = True
            print("forward of", tuple(x.shape))
            if Path(__file__).with_name("ask").exists():
                breakpoint()
        return super().forward(x)

def task():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    net = lambda: Net(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    sites = (Site("1", "vector"),)
    return Task.from_samples("mine", make_host=net, sites=sites, inputs=x, targets=(x.sum(1) > 0).long(), epochs=1)
"""


def test_print_and_breakpoint(esper, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TASK)
    (tmp_path / "ask").touch()
    wanted = ("run", "--task", f"{file}:task", "--epochs", "1")

    refused = esper(*wanted, "--no-control", code=2).stderr
    assert "grown    | forward of (32, 4)" in refused
    assert f"{file}:14: a breakpoint needs the terminal" in refused
    assert not (esper.data_dir / "log").exists()  # it came before the log was started

    command = esper.command(*wanted, "--in-process")
    done = subprocess.run(command, input="p x.shape\nc\n", capture_output=True, text=True, timeout=120, check=True)
    assert "torch.Size([32, 4])" in done.stdout
    assert "test accuracy" in done.stdout

    assert [run["status"] for run in esper.json("runs")] == ["completed"]
