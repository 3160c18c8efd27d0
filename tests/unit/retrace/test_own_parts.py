"""A task that brings its own loader, optimiser and scheduler: trained, kept, and told of in its own lines."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from esper.errors import InvalidInput
from esper.metric import Metric
from esper.tolaria.data import Samples
from esper.tolaria.dry_run import try_task
from esper.tolaria.tasks import Site, Task, load_task


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
        "make_loader": lambda: DataLoader(TensorDataset(part(0)[0]["x"], part(0)[1]), 2, shuffle=True),
        "make_host": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)),
        "sites": (Site("1", "vector"),),
        "probe": Samples(part(-1, 32)[0]["x"], part(-1, 32)[1]),
        "test": Samples(part(-2, 32)[0]["x"], part(-2, 32)[1]),
        "make_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "scheduled": "epoch",
    },
    "its own loader, Esper's optimiser": {"make_optimizer": None, "make_scheduler": None},
}


@pytest.mark.parametrize("arm", ARMS)
def test_it_grows_replays_and_is_resumed_to_the_same_state(lived, other, arm):
    """The record trained again, and a run that died in its sixth epoch, come to the same digests."""
    task = own_task(**ARMS[arm])
    germination = {5: lived.germinate("s1")}

    whole = lived.train(germination, task=task, policy="none")
    replayed = whole.replay(task=task)
    died = other.train(germination, task=task, policy="none", dies_at=len(whole.log.events) * 3 // 4)
    reached = len(died.digests())
    resumed = died.resume(task=task)

    assert whole.result is not None
    assert (whole.result.status, whole.result.seeds["germinated"]) == ("completed", 1)
    assert whole.result.metrics[0]["unit"] == "mm"
    assert (replayed.diverged, replayed.digests_checked > 8) == (None, True)
    assert 2 < reached < 8
    assert resumed.digests() == whole.digests()


def test_a_fork_goes_on_with_the_loader_where_it_was(lived, other):
    parent = lived.train(task=own_task(), policy="none")

    child = other.fork(parent, step=16, change="germinate s1 BP009", task=own_task())

    assert child.result is not None
    assert (child.result.status, child.result.seeds["germinated"]) == ("completed", 1)
    assert child.log.events[-1].global_step == parent.log.events[-1].global_step == 32


def test_what_a_loader_gives_is_not_drawn_from_the_callers_streams(lived):
    """Python's, NumPy's and torch's random streams are the caller's again after a run."""
    torch.manual_seed(1)
    before = torch.rand(3)
    torch.manual_seed(1)

    lived.train(task=own_task(**ARMS["a loader that draws, rates by epoch"]), policy="none", epochs=1)

    assert torch.equal(torch.rand(3), before)


FILE = """\
import torch
from torch import nn
from esper.tolaria.tasks import Samples, Site, Task

X, Y = torch.randn(16, 4), torch.randn(16, 1)

def task():
    return Task(
        name="mine",
        make_host=lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)),
        sites=(Site("1", "vector"),),
        make_loader={loader},
        make_optimizer={optimizer},
        make_scheduler={scheduler},
        scheduled={scheduled},
        probe={probe},
        test=Samples(X, Y),
        per_sample_loss={loss},
    )
"""
HEALTHY = {
    "loader": "lambda: [(X, Y)]",
    "optimizer": "lambda host: torch.optim.SGD(host.parameters(), lr=0.1)",
    "scheduler": "None",
    "scheduled": "'step'",
    "probe": "Samples(X, Y)",
    "loss": "lambda outputs, targets: (outputs - targets).abs().flatten()",
}


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({"loader": "[(X, Y)]"}, 12, "make_loader is a list already, and each run makes its own; give what makes one"),
        ({"loader": "lambda: [X]"}, 12, "a batch of the loader is a Tensor; it must be two, (inputs, targets)"),
        ({"loader": "lambda: []"}, 12, "what make_loader gives has no batch"),
        ({"loader": "lambda: 1 / 0"}, 12, "make_loader fails with ZeroDivisionError"),
        ({"loader": "lambda: [({'x': X, 'tool': X[:3]}, Y)]"}, 8, "the tensors of a sample are of 16, 3, 16 samples"),
        ({"loader": "None"}, 8, "train is a NoneType; give train=Samples(inputs, targets), or make_loader="),
        ({"probe": "None"}, 16, "probe is a NoneType; give probe=Samples(inputs, targets)"),
        ({"optimizer": "torch.optim.SGD([X.requires_grad_()])"}, 13, "make_optimizer is a SGD already"),
        ({"optimizer": "lambda host: 3"}, 13, "make_optimizer gives a int; it must give a torch.optim.Optimizer"),
        ({"optimizer": "lambda host: torch.optim.SGD(host, lr=1)"}, 13, "make_optimizer fails with TypeError"),
        (
            {"optimizer": "lambda host: torch.optim.SGD([nn.Parameter(X)])"},
            13,
            "make_optimizer holds no parameter of the host that it is given",
        ),
        ({"optimizer": "None", "scheduler": "lambda o: 1"}, 14, "make_scheduler needs make_optimizer"),
        ({"scheduler": "lambda o: 1"}, 14, "make_scheduler gives a int, which has no step()"),
        (
            {"scheduler": "torch.optim.lr_scheduler.ReduceLROnPlateau"},
            14,
            "make_scheduler gives a ReduceLROnPlateau, which waits for a loss",
        ),
        ({"loss": "None"}, 18, "per_sample_loss is None; give a function f(outputs, targets) with a number for each"),
        ({"scheduled": "'batch'"}, 15, "scheduled is 'batch'; it is 'step' or 'epoch'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(tmp_path, changes, line, said):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(**(HEALTHY | changes)))

    with pytest.raises(InvalidInput, match=re.escape(said)) as raised:
        try_task(load_task(f"{path}:task"), torch.device("cpu"))

    assert str(raised.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"learning_rate": 0.1}, "learning_rate is 0.1, and task tiny brings its optimiser"),
        ({"weight_decay": 0.0}, "weight_decay is 0.0, and task tiny brings its optimiser"),
        ({"batch_size": 64}, "batch_size is 64, and task tiny brings its loader, whose first batch has 8"),
    ],
)
def test_a_setting_of_what_a_task_brings_is_refused(lived, asked, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        lived.train(task=own_task(), **asked)
