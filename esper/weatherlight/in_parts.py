"""A run in a loop that is somebody else's: the calls that a callback gets, put into the order of the loop engine.

A library's loop cannot give a closure, so a seed has no pass of its own here: it learns from the host's backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from esper.errors import InvalidInput
from esper.tolaria.script_work import Probe
from esper.weatherlight.grow import grow
from esper.weatherlight.growth import Growth

RULE: Final = "straight_through"
"""How a seed learns in TRAINING where nobody can run the batch again."""


class InParts:
    """One run, driven by a callback. `loss` is what the callback saw last; `over` says that the run needs no more."""

    def __init__(self, probe: Probe, report: Probe | None, options: Mapping[str, Any]) -> None:
        self.loss: Tensor | None = None
        self.over = False
        self._probe, self._report, self._options = probe, report, dict(options)
        self._run: Growth | None = None
        self._epochs: Iterator[int] = iter(())
        self._epoch = self._planned = 0
        self._judged = self._taken = False

    @property
    def run(self) -> Growth:
        """The run; raises InvalidInput before it begins."""
        if self._run is None:
            raise InvalidInput("the run begins with the training; before that there is none")
        return self._run

    @property
    def epoch(self) -> int:
        """The number of the run's epoch, which is one that it had before where a rollback took it back."""
        return self._epoch

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, epochs: int, **given: Any) -> int:
        """Begin the run and its first epoch, whose number is returned: not 0 where a run goes on.

        `given` are arguments of `esper.grow` that the library knows.
        """
        config = dict(self._options.get("config") or {})
        config["seeds"] = {"training_rule": RULE, **config.get("seeds", {})}
        options = {"lifecycle": "swift"} | given | self._options | {"config": config}
        self._run = grow(model, optimizer, probe=self._probe, epochs=epochs, **options)
        self._run.__enter__()
        self._epochs = self._run.epochs()
        self._epoch, self._planned = next(self._epochs), epochs
        return self._epoch

    def before_batch(self, batch: object) -> bool:
        """Whether the epoch goes on."""
        return not self.over and self.run.before_batch(batch)

    def after_backward(self) -> None:
        """A batch's gradients are there."""
        assert self.loss is not None
        self.run.after_backward(self.loss)
        self._judged = False

    def before_step(self, model: nn.Module) -> None:
        """Judge the step: where it must not be taken no parameter keeps a gradient, so that no optimiser moves it."""
        self._judged = True
        self._taken = self.run.before_step()
        if not self._taken:
            for parameter in model.parameters():
                parameter.grad = None

    def after_step(self) -> None:
        """The optimiser has stepped, or it has not because a batch was accumulated or the step was refused."""
        if self._judged and self._taken:
            self.run.after_step()
        self._judged = False

    def end_epoch(self) -> int:
        """End the epoch and begin the next; returns how many epochs were taken back or added, 0 as a rule."""
        if self.over:
            return 0
        following = next(self._epochs, None)
        if following is None:
            self.over = True
            return 0
        back = self._epoch + 1 - following
        added, self._planned = self.run.run.epochs - self._planned, self.run.run.epochs  # a static run plans its own
        self._epoch = following
        return back + max(0, added)

    def end(self) -> None:
        """Report and end the run."""
        if self._report is not None:
            self.run.report(self._report)
        self.run.__exit__(None, None, None)

    def fail(self, error: BaseException) -> None:
        """Let the history know why the run ends."""
        if self._run is not None:
            self._run.__exit__(type(error), error, error.__traceback__)
