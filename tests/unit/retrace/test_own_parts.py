"""A task that brings its own loader, optimiser and scheduler: trained, kept, and told of in its own lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from esper.errors import InvalidInput
from esper.metric import Metric
from esper.testing import REAL_CLOCK
from esper.tolaria.data import Samples
from esper.tolaria.dry_run import try_task
from esper.tolaria.outside import Outside
from esper.tolaria.resume import resume_run
from esper.tolaria.tasks import Site, Task, load_task
from esper.tolaria.world import LiveWorld


class Machine(nn.Module):
    """Two inputs by name to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.tools = nn.Embedding(3, 2)
        self.hidden = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Dropout(0.1))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(self.hidden(torch.cat([inputs["x"], self.tools(inputs["tool"])], dim=1)))
        return found


def part(number: int, size: int = 8) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    x, tool = torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw)
    return {"x": x, "tool": tool}, (x[:, :1] * x[:, 1:2] + tool[:, None] / 3)


class Endless(IterableDataset):  # type: ignore[type-arg]
    """New batches for ever; its state is the number of the next."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Any:
        while True:
            self.next += 1
            yield part(self.next - 1)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def own_task(**changes: Any) -> Task:
    settings: dict[str, Any] = {
        "name": "tiny",
        "make_host": Machine,
        "sites": (Site("hidden", "vector"),),
        "make_loader": Endless,
        "steps_per_epoch": 4,
        "probe": Samples(*part(-1, 32)),
        "test": Samples(*part(-2, 32)),
        "epochs": 8,
        "make_optimizer": lambda host: torch.optim.SGD(host.parameters(), lr=0.05, momentum=0.9),
        "make_scheduler": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=32),
        "per_sample_loss": lambda outputs, targets: (outputs - targets).square().mean(dim=1),
        "metrics": (Metric("mae", "mm", lower_is_better=True, per_sample=lambda o, t: (o - t).abs().mean(dim=1)),),
    }
    return Task(**(settings | changes))


ARMS = {
    "its own loader, optimiser and scheduler": {},
    "a loader that draws, rates by epoch": {
        "make_loader": lambda: DataLoader([tuple(each[0] for each in _plain(n)) for n in range(16)], 4, shuffle=True),
        "make_host": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)),
        "sites": (Site("1", "vector"),),
        "probe": Samples(*(torch.cat(each) for each in zip(*map(lambda n: _plain(n), range(32)), strict=True))),
        "test": Samples(*(torch.cat(each) for each in zip(*map(lambda n: _plain(n), range(32)), strict=True))),
        "make_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "scheduled": "epoch",
    },
    "its own loader, Esper's optimiser": {"make_optimizer": None, "make_scheduler": None},
}


def _plain(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = part(number, 1)
    return inputs["x"], targets


@pytest.mark.parametrize("arm", ARMS)
def test_it_grows_replays_and_is_resumed_to_the_same_state(lived, arm):
    """The run, its record trained again, and one that died in the middle come to the same digests."""
    task = own_task(**ARMS[arm])
    whole = lived().train({5: lived().germinate("s1")}, task=task, policy="none")
    assert whole.result is not None

    replayed = whole.replay(task)

    assert (whole.result.status, whole.result.seeds["germinated"]) == ("completed", 1)
    assert whole.result.metrics[0]["unit"] == "mm"
    assert (replayed.diverged, replayed.digests_checked > 8) == (None, True)
