"""Growth in Hugging Face's Trainer: `esper.huggingface.GrowthCallback`; needs the extra `esper-lite[huggingface]`.

    Trainer(model=model, args=..., train_dataset=..., callbacks=[GrowthCallback(probe_fn, name="sums")]).train()

The Trainer steps model, optimiser and schedule as always; the callback tells the loop engine of each part. The Trainer
gives a callback no loss: it is taken from what the model returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from esper.errors import InvalidInput
from esper.tolaria.script_work import Probe
from esper.weatherlight.in_parts import InParts


class GrowthCallback(TrainerCallback):
    """Grows the model that the Trainer trains; `run` is the run, from the first batch on.

    `probe(model)` gives the losses of N samples, shape (N,), as for `esper.grow`, whose other arguments are
    `options`; `report` is a test of the same kind, called once at the end. The run has `epochs`, by default as many as
    `num_train_epochs`. A Trainer never trains more epochs than it was told: where some were taken back, the run ends
    so many earlier, unless `num_train_epochs` is larger than `epochs`.

    Raises InvalidInput for a model that returns no loss.
    """

    def __init__(self, probe: Probe, *, report: Probe | None = None, epochs: int | None = None, **options: Any) -> None:
        self._parts = InParts(probe, report, options)
        self._epochs = epochs
        self._hook: Any = None
        self._accumulated = 1
        self._now = _Now()

    @property
    def run(self) -> Any:
        """The run of `esper.grow`."""
        return self._parts.run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Begin the run."""
        model, optimizer = parts["model"], parts["optimizer"]
        self._hook = model.register_forward_hook(self._note_loss, with_kwargs=True)
        self._accumulated = args.gradient_accumulation_steps
        first = self._parts.begin(
            model,
            getattr(optimizer, "optimizer", optimizer),  # accelerate's, around torch's
            epochs=self._epochs or round(state.num_train_epochs),
            scheduler=parts.get("lr_scheduler"),
            accumulate=args.gradient_accumulation_steps,
        )
        self._now.epoch = first
        _count_as(self._now, parts.get("train_dataloader"))

    def _note_loss(self, model: nn.Module, _inputs: Any, named: Mapping[str, Any], outputs: Any) -> None:
        """The batch's mean loss: a model that was told how many items make the step has returned its part of theirs."""
        loss = outputs.get("loss") if hasattr(outputs, "get") else getattr(outputs, "loss", None)
        if model.training and isinstance(loss, Tensor):
            part = named.get("num_items_in_batch") is not None
            self._parts.loss = loss.detach() * (self._accumulated if part else 1)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """An epoch begins."""
        self._ask(control)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Note the gradients of a batch that makes no step yet."""
        self._noted()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Judge the step; one that must not be taken finds no gradients."""
        self._noted()
        self._parts.before_step(parts["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Let seeds move on, and take in commands."""
        self._parts.after_step()
        self._ask(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Probe, decide, keep."""
        self._parts.end_epoch()
        self._now.epoch = self._parts.epoch
        if self._parts.over:
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Report, and end the run."""
        self._hook.remove()
        self._parts.end()

    def _noted(self) -> None:
        if self._parts.loss is None:
            raise InvalidInput(
                "the model returned no loss to the Trainer, and a callback can see no other: let its forward return an "
                "output with `loss`, or use esper.grow in a loop of your own"
            )
        self._parts.after_backward()

    def _ask(self, control: TrainerControl) -> None:
        if not self._parts.before_batch(None):
            control.should_epoch_stop = True


@dataclass(slots=True)
class _Now:
    """The number of the run's epoch."""

    epoch: int = 0


def _count_as(now: _Now, loader: Any) -> None:
    """Let a loader's epochs have the numbers that the run's have: Trainer counts on where an epoch was taken back.

    It also counts from 0 again in a run that goes on. accelerate's samplers draw an epoch's order from its number,
    which the loader tells them (`set_epoch`).
    """
    batches = getattr(loader, "batch_sampler", None)
    inner = getattr(batches, "batch_sampler", None)  # of a loader that is shared among processes
    samplers: list[Any] = [getattr(batches, "sampler", None), getattr(inner, "sampler", None)]
    others: list[Any] = [batches, getattr(loader, "dataset", None)]
    for each in [*filter(_counts, samplers)] or [*filter(_counts, others)]:
        each.set_epoch = partial(_set_epoch, each.set_epoch, now)


def _counts(part: Any) -> bool:
    return hasattr(part, "set_epoch")


def _set_epoch(set_epoch: Callable[[int], Any], now: _Now, _epoch: int) -> None:
    set_epoch(now.epoch)
