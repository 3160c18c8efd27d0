"""The task that drills train: a small network whose seeds can be made to leak or to give no numbers, from outside.

It is copied into a drill's folder, which stands in the place of FOLDER. What a person's code can do wrong, it does
where the file `break` says so: a hook on every module, as some profilers leave, that spoils what a seed gives.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.tolaria.tasks import Site, Task

FOLDER = Path("@FOLDER@")
STRAY = nn.Parameter(torch.ones(1))


class Host(nn.Module):
    """Takes so many seconds for a step as the file `pace` says; none where there is no such file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of two classes, shape (N, 2)."""
        if self.training:
            with suppress(OSError, ValueError):
                time.sleep(float((FOLDER / "pace").read_text()))
        logits: Tensor = self.layers(inputs)
        return logits * float("nan") if self.training and told() == "host" else logits


def told() -> str:
    """What is to go wrong; empty where nothing is."""
    try:
        return (FOLDER / "break").read_text()
    except OSError:
        return ""


def spoil(module: nn.Module, _inputs: Any, output: Any) -> Any:
    """What a seed gives, spoilt in training as the file `break` says: `leak` or `nan once`; the host does `host`."""
    if not type(module).__module__.startswith("esper.karn") or not module.training or not torch.is_grad_enabled():
        return output
    how = told()
    if how == "leak":
        return output + STRAY.sum()
    if how != "nan once":
        return output
    (FOLDER / "break").unlink(missing_ok=True)
    return output * float("nan")


nn.modules.module.register_module_forward_hook(spoil)


def task() -> Task:
    """Two features decide over a class."""
    inputs = torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    sites = (Site("layers.3", "vector"),)
    return Task.from_samples("drill", make_host=Host, sites=sites, inputs=inputs, targets=targets, batch_size=50)
