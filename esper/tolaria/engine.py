"""The loop engine: one `Session`, which `esper run` and a person's own loop both train with.

    with Session(run) as session:
        for epoch in session.epochs():              # ends the epoch: probe, gates, decision, command, checkpoint
            for batch in session.batches(loader):   # stops early where a rollback or an end was asked for
                session.step(lambda: loss(batch))   # the closure is called again for a seed's own pass
    result = session.result

`step` is written on the parts `before_batch`, `after_backward`, `before_step` and `after_step`, which a loop that
cannot give a closure calls itself, as it does `end_epoch`.

The engine waits for the log in three places only: a state change, until it is acknowledged; the end of an epoch, for
the decision; and the end of the run. Everything else is enqueued (ruling 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import torch
from torch import Tensor

from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_INFO, TelemetryPacket
from esper.errors import InvalidInput, LogUnavailable, Superseded
from esper.kasmina.passes import WHOLE, Closure, Share
from esper.leyline import ids
from esper.tolaria.appointed import TwoAtOnce
from esper.tolaria.commands import apply_arrived, drain, set_rates, stand_still, take_effect
from esper.tolaria.divergence import Diverged, RecordEnded
from esper.tolaria.epoch import Trained, finish_epoch, sample_step
from esper.tolaria.gradients import NormVariance, Part, backward, clip
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.outside import EPOCHS_END
from esper.tolaria.rollback import Halt, recover, rescue, roll_back_as_asked
from esper.tolaria.run import Run
from esper.tolaria.run_state import TargetStepReached, place_of_script, set_place_of_script, stop_at_target_step
from esper.tolaria.session import RunResult, abandon, begin, begin_fork, finish, interrupt
from esper.tolaria.shared_world import average
from esper.tolaria.swaps import swap_kernels
from esper.tolaria.tasks.task import steps_of
from esper.tolaria.world import LiveWorld

_Batch = TypeVar("_Batch")

COMPLETED = ("completed", "")

ASKED_EVERY_S: Final = 5e-3
"""How often a step that has nothing else to do looks for what came from outside: asking cost one of 1.6 ms 2 %."""

SAMPLED_EVERY_S: Final = 0.05
"""... and at most how often its figures are sampled: a gradient norm costs more than all else that Esper does."""

MOST_FIGURES: Final = 1_000
"""Of a person's own, in one packet: an event has a largest size."""


class Session:
    """A run between its first step and its end, driven from outside, epoch by epoch and step by step.

    As a context it tells the history how the run ended: on leaving it the run is finished and `result` is there; what a
    person's code raises is raised on, once the history has it.

    Raises Diverged where the run does not come to what its world has on record, TargetStepReached where the world asks
    for the state at a step, Superseded where another process took the run over, RecordEnded where the run failed or was
    interrupted on record and now is not, Interrupted where the disk is full, memory ends or a device is lost, and
    LogUnavailable, with where the run's state is kept, when the log takes no more facts.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.result: RunResult | None = None
        self._monotonic = run.clock.monotonic
        self._began = self._epoch_began = self._step_began = self._monotonic()
        self._ending: tuple[str, str] | None = None
        self._trouble = ""
        self._loss: Tensor | float = 0.0
        self._loss_sum: Tensor | float = 0.0
        self._norm = 0.0
        self._norms, self._conflicts_before = NormVariance(), 0
        self._steps = self._trained = self._accumulated = self._batches = 0
        self._samples = run.batch_size
        self._last = False
        self.stepped = False
        self._late = False
        """Whether the first fact waits until the first batch was tried."""
        self._at_start: dict[str, Any] | None = None
        self._in_epoch = False
        self._told: list[tuple[int, dict[str, float | Tensor]]] = []
        self._cost: float | None = None
        """FLOPs of a sample in a step that is only to be taken; None where the coming one may have more to do."""
        self._passed = 0
        """Such steps that the slots have not counted yet."""
        self._ask_at = self._sample_at = 0.0

    def __enter__(self) -> Self:
        """Bring the run to where it begins, unless that waits for the first batch."""
        if self._late:
            return self
        try:
            begin(self.run)
        except BaseException as error:
            self._tell(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._count_passed()
        if error is not None:
            self._tell(error)
            return
        try:
            self._end_what_was_left()
            self.result = finish(self.run, *(self._ending or COMPLETED), self._monotonic() - self._began)
        except BaseException as failure:
            self._tell(failure)
            raise

    def _end_what_was_left(self) -> None:
        """End the epoch that a person's loop was left in, as the run's last: its steps count."""
        if self._in_epoch and self._steps and self._ending is None:
            self.run.epochs = self.run.recorder.epoch + 1
            self.end_epoch()

    def _tell(self, error: BaseException) -> None:
        """Let the history know why the run ends; raises what a person has to know where that is another error."""
        if isinstance(error, LogUnavailable):
            raise rescue(self.run, error) from error
        if isinstance(error, (Diverged, TargetStepReached, RecordEnded, Superseded, TwoAtOnce)):
            return  # what this process writes is not its history
        if isinstance(error, KeyboardInterrupt) and self.run.own_streams:
            interrupt(self.run, "a keyboard interrupt", self._monotonic() - self._began)
        if not isinstance(error, Exception):
            return
        if fault := fault_of_machine(error):
            raise interrupt(self.run, fault, self._monotonic() - self._began) from error
        abandon(self.run, error, self._monotonic() - self._began)

    def begin_late(self, closure: Closure | None) -> None:  # noqa: ARG002 - for whoever tries it first
        """Bring the run to its first fact now that there is a batch; its state is that from before the epoch began."""
        now = place_of_script(self.run)
        assert self._at_start is not None
        set_place_of_script(self.run, self._at_start)
        self._late = False
        try:
            begin(self.run)
        except BaseException as error:
            self._tell(error)
            raise
        finally:
            set_place_of_script(self.run, now)
            self.run.told = {}

    # ---------------------------------------------------------------------------------------------- epochs and batches

    def epochs(self) -> Iterator[int]:
        """The number of each epoch, from 0 on; the same one again where a rollback went back to its beginning."""
        run = self.run
        while self._ending is None and run.recorder.epoch < run.epochs:
            if self._late:
                self._at_start = place_of_script(run)
            else:
                stop_at_target_step(run)
            with run.outside.span(f"epoch {run.recorder.epoch + 1}"):
                self._begin_epoch()
                yield run.recorder.epoch
                self.end_epoch()
        if self._ending is None:
            stop_at_target_step(run)

    def batches(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """The loader's batches, as far as the epoch goes on; to be iterated once in an epoch.

        What is accumulated at the end of the loader is a step of its own.
        """
        run = self.run
        run.mid_epoch = not self._late
        if not self._late:
            swap_kernels(run, lambda: run.work.forward(run.host))
        self._epoch_began = self._monotonic()
        self._batches = steps_of(loader) if run.accumulate > 1 else 0
        for number, batch in enumerate(loader, start=1):
            if not self.before_batch():
                return
            self._last = number == self._batches
            self._samples = run.work.samples(batch)
            yield batch
            if self._trouble:
                return
        if self._accumulated:
            self._take_step()

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Record figures of the person's own for this step, such as {"lr": 0.1}: telemetry that SQL finds by name.

        They go out with the run's own figures, and each keeps its step.
        """
        self._told.append((self.run.recorder.step, dict(values)))

    def _tell_figures(self) -> None:
        """Publish what `log` was given since the last time."""
        told, self._told = self._told, []
        packet = TelemetryPacket()
        for step, values in told:
            at = str(step)
            for name, value in values.items():
                point = packet.metrics.add()  # filled field by field: by keywords it is made four times as slowly
                point.name, point.value, point.attributes["step"] = name, float(value), at
                if len(packet.metrics) == MOST_FIGURES:
                    self._publish_figures(packet)
                    packet = TelemetryPacket()
        if packet.metrics:
            self._publish_figures(packet)

    def _publish_figures(self, packet: TelemetryPacket) -> None:
        recorder = self.run.recorder
        packet.packet_id, packet.source_subsystem = ids.text(recorder.new_id()), "script"
        packet.level = TELEMETRY_LEVEL_INFO
        packet.timestamp.FromNanoseconds(self.run.clock.wall_ns())
        recorder.publish(packet)

    def _begin_epoch(self) -> None:
        self._in_epoch = True
        self._loss_sum, self._norm, self._trouble, self._steps, self._trained = 0.0, 0.0, "", 0, 0
        self._accumulated, self._last, self._cost, self._sample_at = 0, False, None, 0.0
        self._norms, self._conflicts_before = NormVariance(), self.run.gradient_conflicts
        self._epoch_began = self._monotonic()

    def end_epoch(self) -> None:
        """Do what follows the last step of an epoch, or the one that could not be taken, before the next begins."""
        run = self.run
        self._in_epoch = False
        self._count_passed()
        if self._told and not self._late:
            self._tell_figures()
        if self._ending is not None:
            return
        if run.rollback_asked is not None or self._trouble:
            try:
                if run.rollback_asked is not None:
                    roll_back_as_asked(run)
                else:
                    recover(run, self._trouble)
            except Halt as halt:
                self._ending = ("failed", str(halt))
        elif not self._steps:
            raise InvalidInput(
                f"epoch {run.recorder.epoch + 1} had no step: the loader gave no batch; a generator is spent after one "
                "epoch, so make a new one in each"
            )
        else:
            run.recorder.epoch += 1
            if run.shared:
                run.be_alike()
            if run.own_streams and run.steps_per_epoch != self._steps:
                run.set_steps_per_epoch(self._steps)
            duration_s = self._monotonic() - self._epoch_began
            microbatches = run.config.microbatches
            pairs = self._steps * max(1, microbatches * (microbatches - 1) // 2)
            trained = Trained(
                loss=float(self._loss_sum) / self._steps,
                gradient_norm=self._norm,
                duration_s=duration_s,
                samples=self._trained,
                gradient_variance=self._norms.variance,
                conflict_rate=(run.gradient_conflicts - self._conflicts_before) / pairs,
            )
            with run.outside.span(EPOCHS_END):
                finish_epoch(run, trained)

    # --------------------------------------------------------------------------------------------------------- a step

    def step(self, closure: Closure, parts: Sequence[Part] = ()) -> Tensor:
        """Take one optimiser step on a batch; returns the closure's loss, without gradient.

        `closure` runs the host on the batch and gives its mean loss, a tensor without axes. It is called again for the
        pass of a seed in TRAINING, which leaves no trace. With `parts` their gradients are aggregated instead. Where
        gradients are accumulated, the step is taken with the last of so many batches; `stepped` says whether it was.
        """
        if self._late:
            self.begin_late(closure)
            self.before_batch()
        if self._cost is not None and not parts:
            return self._step_alone(closure, self._cost)
        run, samples = self.run, self._samples
        if not self._accumulated:
            run.optimizer.zero_grad()
        kind = f"training {run.kasmina.measured}"
        if run.compiled and not run.flops.knows(
            kind
        ):  # backward is two passes more, and a counter sees no compiled code
            run.flops.measure(kind, samples, lambda: run.kasmina.quietly(run.work.aside(closure)), times=3.0)
        whole = run.scaler is None and run.accumulate == 1
        share = WHOLE if whole else Share(1.0 / run.accumulate, self._accumulated > 0, self._scale)
        if run.kasmina.seeded:
            # A seed in TRAINING learns from a pass of its own; nothing of the host notices (ruling 7).
            with run.flops.counted("side_pass", "side_pass", samples):
                run.kasmina.side_pass(run.work.aside(closure), share)
        with run.flops.counted("training", kind, samples):
            loss, conflicts = backward(
                closure,
                parts,
                run.learners.joint,
                pcgrad=run.config.pcgrad,
                generator=run.random.aggregation,
                scaled=None if whole else self._scaled,
            )
        run.gradient_conflicts += conflicts
        run.work.stepped(closure)
        self._note(loss)
        if self._accumulated == run.accumulate or self._last:
            self._take_step()
        return loss

    def _step_alone(self, closure: Closure, cost: float) -> Tensor:
        """The same step where there is nothing to do but to take it, to the same bits.

        Whoever looks at `_has_more_to_do` sees what is left out. In the caches of a step of a millisecond the parts of
        the other way are cold, and cost 5 % of it.
        """
        run = self.run
        run.optimizer.zero_grad()
        run.flops.spent["training"] += cost * self._samples
        loss = closure()
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        run.work.stepped(closure)
        self._loss = float(loss) if loss.device.type == "cpu" else loss
        recorder = run.recorder
        sampled = self._sampled and self._step_began >= self._sample_at
        if sampled:
            self._norm = clip(run.learners, None)
        run.optimizer.step()
        recorder.step += 1
        self.stepped = True
        self._passed += 1
        self._steps += 1
        self._trained += self._samples
        self._loss_sum = self._loss_sum + self._loss
        if sampled:
            self._count_passed()
            self._sample()
        return loss

    def _has_more_to_do(self) -> bool:
        """Whether a step must be more than taken: something grows, or it is judged, clipped, scaled or shared.

        A record that is followed is asked at every step.
        """
        run = self.run
        return (
            run.guarded
            or run.scaler is not None
            or run.accumulate > 1
            or run.config.clip_norm is not None
            or run.kasmina.seeded
            or not run.rates.steady
            or not isinstance(run.world, LiveWorld)
        )

    def _count_passed(self) -> None:
        """Let the slots count the steps that were taken alone."""
        if self._passed:
            self.run.kasmina.pass_steps(self._passed)
            self._passed = 0

    @property
    def _scale(self) -> float:
        """What the scaler multiplies a loss with now."""
        return 1.0 if self.run.scaler is None else float(self.run.scaler.get_scale())

    def _scaled(self, loss: Tensor) -> Tensor:
        """What is differentiated: a batch's share of the step's loss, as the scaler would have it."""
        scaler, count = self.run.scaler, self.run.accumulate
        part = loss / count if count > 1 else loss
        return part if scaler is None else scaler.scale(part)

    def _take_step(self) -> None:
        run = self.run
        if not self.before_step():
            return
        if run.scaler is None:
            run.optimizer.step()
        else:
            run.scaler.step(run.optimizer.torch)
            run.scaler.update()
        self.after_step()

    def before_batch(self, batch: object = None) -> bool:
        """Take in what came from outside since the last step; False where the epoch goes no further.

        A loop that does not go through `batches` gives the `batch`, so that its samples are counted.
        """
        run = self.run
        if batch is not None:
            self._samples = run.work.samples(batch)
        if self._trouble:
            return False
        self.stepped = False
        if self._accumulated or self._late:
            return True  # between two batches of one step nothing changes, and before the first nothing can come
        run.mid_epoch = True
        now = self._step_began = self._monotonic()
        if self._cost is not None and now < self._ask_at and not run.paused:
            return True
        self._ask_at = now + ASKED_EVERY_S
        if run.world.eventful() or run.paused:
            self._count_passed()
            self._cost = None
            if (ending := run.world.ending()) is not None:
                self._ending = ending
                return False
            begin_fork(run, "step")
            apply_arrived(run)
            if run.paused and (ending := stand_still(run)) is not None:
                self._ending = ending
                return False
            stop_at_target_step(run)
            self._step_began = self._monotonic()
        return run.rollback_asked is None

    def after_backward(self, loss: Tensor) -> None:
        """Note what a backward pass has left: the batch's mean `loss` and the gradients of the seeds.

        Nobody could count that pass: a sample costs three times its forward pass in a probe, as backward is two more.
        """
        if self._late:
            self.begin_late(None)
            self.before_batch()
        run = self.run
        kind = f"training {run.kasmina.measured}"
        if not run.flops.knows(kind):
            run.flops.measure(kind, run.work.probe_samples, lambda: run.work.probe(run.host), times=3.0)
        with run.flops.counted("training", kind, self._samples):
            self._note(loss)

    def _note(self, loss: Tensor) -> None:
        found = loss.detach() if not self.run.guarded and loss.device.type != "cpu" else float(loss)
        self._loss = found if not self._accumulated else self._loss + found
        self._accumulated += 1
        self.run.kasmina.after_backward()

    def before_step(self) -> bool:
        """Clip and judge the step, and set its rates; False for a step that must not be taken.

        Judged before it is taken: a step that must not be taken never reaches the weights.
        """
        run = self.run
        if self._accumulated > 1:
            self._loss = self._loss / self._accumulated
        self._accumulated = 0
        if run.shared:
            average(each for learning in run.kasmina.trainable().values() for each in learning)
        if run.scaler is not None:
            self._unscale(run.scaler)
        if run.guarded or run.config.clip_norm is not None or self._sampled:
            self._norm = clip(run.learners, run.config.clip_norm)
            self._norms.add(self._norm)
        if run.guarded:
            # A scaler leaves a step out whose gradients are no numbers, and lowers its scale: nothing has failed.
            skipped = run.scaler is not None and not math.isfinite(self._norm)
            self._trouble = run.world.trouble("" if skipped else run.guard.trouble(float(self._loss), self._norm))
        if self._trouble:
            if run.scaler is not None:
                run.scaler.update()
            return False
        set_rates(run)
        return True

    @property
    def _sampled(self) -> bool:
        """Whether telemetry will tell of the coming step."""
        return (self.run.recorder.step + 1) % self.run.config.telemetry_every_steps == 0

    def _unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Make the gradients those of the loss; those of lone seeds are, and may not make the host leave a step out."""
        alone = [(each, each.grad) for parameters, _ in self.run.learners.alone for each in parameters]
        for parameter, _ in alone:
            parameter.grad = None
        with self.run.optimizer.joined():
            scaler.unscale_(self.run.optimizer.torch)
        for parameter, gradient in alone:
            parameter.grad = gradient

    def after_step(self) -> None:
        """The optimiser has taken the step: seeds move on, and whatever changed is in the log before the next one."""
        run = self.run
        run.rates.end_step()
        run.recorder.step += 1
        self.stepped = True
        self._steps += 1
        self._trained += self._samples * run.accumulate
        self._loss_sum = self._loss_sum + self._loss
        if facts := run.kasmina.advance_step():
            take_effect(run, facts)
        drain(run)
        if run.recorder.step % run.config.telemetry_every_steps == 0:
            self._sample()
        self._cost = None if self._has_more_to_do() else run.flops.cost(f"training {run.kasmina.measured}")

    def _sample(self) -> None:
        """Publish the figures of the step that was just taken, and what `log` was given."""
        now = self._monotonic()
        self._sample_at = now + SAMPLED_EVERY_S
        sample_step(self.run, float(self._loss), self._norm, now - self._step_began)
        if self._told:
            self._tell_figures()


def result_of(session: Session) -> RunResult:
    """The result of a session that was left; raises InvalidInput for one that is still on."""
    if session.result is None:
        raise InvalidInput("the run is not over; its result is there once its context is left")
    return session.result
