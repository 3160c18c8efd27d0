"""A run in a person's own loop, in a thread of its own, that goes on until somebody stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import esper

STEPS = 1_000_000
"""More than anybody waits for."""


class EndlessRun(threading.Thread):
    """The run `told`: one endless epoch of a small net, with so long a pause after each step."""

    def __init__(self, folder: Path, pause_s: float = 0.0, **options: Any) -> None:
        super().__init__(daemon=True)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        self.x, self.y = torch.randn(32, 4), torch.randint(2, (32,))
        self.pause_s = pause_s
        self.growth = esper.grow(
            self.model,
            torch.optim.SGD(self.model.parameters(), lr=0.01),
            probe=lambda model: nn.functional.cross_entropy(model(self.x), self.y, reduction="none"),
            epochs=1,
            data_dir=folder,
            run_id="told",
            **options,
        )

    def run(self) -> None:
        """Train until the run is stopped."""
        with self.growth as run:
            for _ in run.epochs():
                for _ in run.batches(range(STEPS)):
                    run.step(lambda: nn.functional.cross_entropy(self.model(self.x), self.y))
                    if self.pause_s:
                        time.sleep(self.pause_s)


@contextmanager
def endless_run(folder: Path, pause_s: float = 0.0, **options: Any) -> Iterator[EndlessRun]:
    """Such a run, once its history begins in the archive of `folder`; it is stopped on leaving."""
    run = EndlessRun(folder, pause_s, **options)
    run.start()
    while not (folder / "archive" / "manifest.json").exists():
        assert run.is_alive()
        time.sleep(0.05)
    yield run
    run.growth.stop()
    run.join(60)
