"""What the runs of these tests are made of: a tiny task, chance, a log that delivers commands and can die."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from esper.kasmina.settings import SeedSettings
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.tamiyo.serving import Serving
from esper.testing import MemoryLog, signed
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.tasks.task import cross_entropy

Command = Callable[[str], Event]

EPOCHS = 10
STEPS = 3
QUICK = SeedSettings(
    training_epochs=1,
    blend_epochs=1,
    embargo_epochs=1,
    probation_patience=2,
    harm_z=50.0,  # so that seeds of a network this small get through the gates now and then
    drift_z=50.0,
    benefit_z=0.0,
    regression_z=50.0,
)


def tiny(**changes: Any) -> Task:
    """A task whose whole run takes a second, with dropout so that the random streams count."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 4, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    parts = [Samples(inputs[a:b], targets[a:b]) for a, b in ((0, 48), (48, 84), (84, 120))]
    layers = (nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    settings: dict[str, Any] = {
        "name": "tiny",
        "make_host": lambda: nn.Sequential(*(type(each)(*_sizes(each)) for each in layers)),
        "sites": (Site("1", "vector"), Site("4", "vector")),
        "epochs": EPOCHS,
        "batch_size": 16,
        "learning_rate": 1e-2,
    }
    return Task(train=parts[0], probe=parts[1], test=parts[2], **(settings | changes))


def _sizes(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Linear):
        return (layer.in_features, layer.out_features)
    return (0.1,) if isinstance(layer, nn.Dropout) else ()


class Fault:
    """A loss that is no number at the calls named, counted over calls with gradient: it strikes once, like chance."""

    def __init__(self, calls: Iterable[int]) -> None:
        self._calls = set(calls)
        self._made = 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(logits, targets)
        if torch.is_grad_enabled():
            self._made += 1
            if self._made in self._calls:
                return loss * math.nan
        return loss


class Killed(BaseException):
    """The trainer's process is gone: nothing is caught, nothing is tidied up."""


class Scripted(MemoryLog):
    """A log that delivers a person's commands when the run asks for the so-many-th time.

    The process dies at event `dies_at`, counted over all that lies on the log, `told` says whether it was written.
    """

    dies_at: int | None = None
    told: bool = True

    def __init__(
        self,
        objects: ObjectStore,
        script: dict[int, Command | tuple[Command, ...]],
        events: Iterable[Event] = (),
        serving: Serving | None = None,
    ) -> None:
        super().__init__(objects=objects, events=events, serving=serving)
        self._script = script
        self._asked = 0
        self.requests: list[tuple[Event, Signed]] = []

    def publish(self, event: Event) -> None:
        """Append the event, if the process lives that long."""
        dies = self.dies_at is not None and len(self.events) >= self.dies_at
        if not dies or self.told:
            super().publish(event)
        if dies:
            raise Killed

    def take_commands(self) -> list[Signed]:
        """What is due now."""
        due = self._script.get(self._asked, ())
        self._asked += 1
        for make in due if isinstance(due, tuple) else (due,):
            event = make("run")
            self.requests.append((event, signed(event)))
            self.send(self.requests[-1][1])
        return super().take_commands()
