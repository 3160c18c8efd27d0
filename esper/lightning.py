"""Growth in Lightning's own loop: `esper.lightning.GrowthCallback`; needs the extra `esper-lite[lightning]`.

    trainer = Trainer(max_epochs=30, callbacks=[GrowthCallback(probe_fn, name="parts")])
    trainer.fit(module, loader)

Lightning steps the module, the optimiser and the schedule as always; the callback tells the loop engine of each part.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from esper.errors import InvalidInput
from esper.tolaria.script_work import Probe
from esper.weatherlight.in_parts import InParts


class GrowthCallback(Callback):
    """Grows the module that Lightning trains; `run` is the run, from the first batch on.

    `probe(module)` gives the losses of N samples, shape (N,), as for `esper.grow`, whose other arguments are
    `options`; `report` is a test of the same kind, called once at the end. The run has as many epochs as
    `Trainer(max_epochs=...)`; an epoch that is taken back is trained again in addition.

    Raises InvalidInput for manual optimisation and for several optimisers, which no callback can follow.
    """

    def __init__(self, probe: Probe, *, report: Probe | None = None, **options: Any) -> None:
        self._parts = InParts(probe, report, options)

    @property
    def run(self) -> Any:
        """The run of `esper.grow`."""
        return self._parts.run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the run."""
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise InvalidInput(
                f"{type(pl_module).__name__} optimises by hand or with {len(trainer.optimizers)} optimisers; a "
                "callback can follow automatic optimisation with one: use esper.grow in a loop of your own"
            )
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise InvalidInput(
                f"max_epochs is {trainer.max_epochs}; growth is planned by epochs: give Trainer a number"
            )
        schedules = [each.scheduler for each in trainer.lr_scheduler_configs]
        first = self._parts.begin(
            pl_module,
            trainer.optimizers[0],
            epochs=trainer.max_epochs,
            scheduler=schedules[0] if schedules else None,
            accumulate=trainer.accumulate_grad_batches,
        )
        if first:
            _count_from(first, trainer)

    def on_train_batch_start(  # type: ignore[override]  # Lightning takes -1 for "end this epoch"
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> int | None:
        """Take in commands; -1 ends the epoch where a rollback or an end was asked for."""
        return None if self._parts.before_batch(batch) else -1

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss, which Lightning has divided by the number of batches that make a step."""
        self._parts.loss = loss.detach() * trainer.accumulate_grad_batches

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the gradients."""
        self._parts.after_backward()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step; one that must not be taken finds no gradients."""
        self._parts.before_step(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let seeds move on, where the step was taken."""
        self._parts.after_step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, decide, keep; Lightning goes on for an epoch more for each that was taken back or added."""
        repeated = self._parts.end_epoch()
        if self._parts.over:
            trainer.should_stop = True
        elif repeated and trainer.max_epochs is not None:
            trainer.fit_loop.max_epochs = trainer.max_epochs + repeated

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and end the run."""
        self._parts.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the history know why the run ends."""
        self._parts.fail(exception)


def _count_from(first: int, trainer: Trainer) -> None:
    """Let Lightning's epochs have the numbers that the run's have: of a run that goes on, it counts from 0 again.

    And the iterator of its first epoch was made before the run began, of a random state that this run did not have
    there; one for any later epoch is made afterwards.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = first
