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

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from torch import Tensor

from esper.errors import InvalidInput, LogUnavailable, Superseded
from esper.kasmina.passes import Closure
from esper.tolaria.commands import apply_arrived, drain, set_rates, take_effect
from esper.tolaria.divergence import Diverged, RecordEnded
from esper.tolaria.epoch import Trained, finish_epoch, sample_step
from esper.tolaria.gradients import Part, backward, clip
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.rollback import Halt, recover, rescue, roll_back_as_asked
from esper.tolaria.run import Run, TargetStepReached, stop_at_target_step
from esper.tolaria.session import RunResult, abandon, begin, begin_fork, finish, interrupt
from esper.tolaria.swaps import swap_kernels

_Batch = TypeVar("_Batch")

COMPLETED = ("completed", "")


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
        self._loss = self._loss_sum = self._norm = 0.0
        self._steps = 0

    def __enter__(self) -> Self:
        """Bring the run to where it begins."""
        try:
            begin(self.run)
        except BaseException as error:
            self._tell(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._tell(error)
            return
        try:
            self.result = finish(self.run, *(self._ending or COMPLETED), self._monotonic() - self._began)
        except BaseException as failure:
            self._tell(failure)
            raise

    def _tell(self, error: BaseException) -> None:
        """Let the history know why the run ends; raises what a person has to know where that is another error."""
        if isinstance(error, LogUnavailable):
            raise rescue(self.run, error) from error
        if isinstance(error, (Diverged, TargetStepReached, RecordEnded, Superseded)):
            return  # what this process writes is not its history
        if not isinstance(error, Exception):
            return
        if fault := fault_of_machine(error):
            raise interrupt(self.run, fault, self._monotonic() - self._began) from error
        abandon(self.run, error, self._monotonic() - self._began)

    # ---------------------------------------------------------------------------------------------- epochs and batches

    def epochs(self) -> Iterator[int]:
        """The number of each epoch, from 0 on; the same one again where a rollback went back to its beginning."""
        run = self.run
        while self._ending is None and run.recorder.epoch < run.epochs:
            stop_at_target_step(run)
            self._begin_epoch()
            yield run.recorder.epoch
            self.end_epoch()
        if self._ending is None:
            stop_at_target_step(run)

    def batches(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """The loader's batches, as far as the epoch goes on; to be iterated once in an epoch."""
        run = self.run
        run.mid_epoch = True
        swap_kernels(run, lambda: run.work.forward(run.host))
        self._epoch_began = self._monotonic()
        for batch in loader:
            if not self.before_batch():
                return
            yield batch
            if self._trouble:
                return

    def _begin_epoch(self) -> None:
        self.run.host.train()
        self._loss_sum, self._norm, self._trouble, self._steps = 0.0, 0.0, "", 0

    def end_epoch(self) -> None:
        """Do what follows the last step of an epoch, or the one that could not be taken, before the next begins."""
        run = self.run
        if self._ending is not None:
            return
        if run.rollback_asked is not None:
            roll_back_as_asked(run)
        elif self._trouble:
            try:
                recover(run, self._trouble)
            except Halt as halt:
                self._ending = ("failed", str(halt))
        else:
            run.recorder.epoch += 1
            duration_s = self._monotonic() - self._epoch_began
            finish_epoch(run, Trained(self._loss_sum / max(self._steps, 1), self._norm, duration_s))

    # --------------------------------------------------------------------------------------------------------- a step

    def step(self, closure: Closure, parts: Sequence[Part] = ()) -> Tensor:
        """Take one optimiser step on a batch; returns the closure's loss, without gradient.

        `closure` runs the host on the batch and gives its mean loss, a tensor without axes. It is called again for the
        pass of a seed in TRAINING, which leaves no trace. With `parts` their gradients are aggregated instead.
        """
        run = self.run
        run.optimizer.zero_grad()
        # A seed in TRAINING learns from a pass of its own; nothing of the host notices (ruling 7).
        with run.flops.counted("side_pass", "side_pass", run.batch_size):
            run.kasmina.side_pass(closure)
        with run.flops.counted("training", f"training {run.kasmina.measured}", run.batch_size):
            loss, conflicts = backward(
                closure, parts, run.learners.joint, pcgrad=run.config.pcgrad, generator=run.random.aggregation
            )
        self.after_backward(loss)
        if self.before_step():
            run.optimizer.step()
            run.gradient_conflicts += conflicts
            self.after_step()
        return loss

    def before_batch(self) -> bool:
        """Take in what came from outside since the last step; False where the epoch goes no further."""
        run = self.run
        if (ending := run.world.ending()) is not None:
            self._ending = ending
            return False
        begin_fork(run, "step")
        apply_arrived(run)
        stop_at_target_step(run)
        self._step_began = self._monotonic()
        return run.rollback_asked is None

    def after_backward(self, loss: Tensor) -> None:
        """Note what the backward pass has left: the batch's mean `loss` and the gradients of the seeds."""
        self._loss = float(loss)
        self.run.kasmina.after_backward()

    def before_step(self) -> bool:
        """Clip and judge the step, and set its rates; False for a step that must not be taken.

        Judged before it is taken: a step that must not be taken never reaches the weights.
        """
        run = self.run
        self._norm = clip(run.learners, run.config.clip_norm)
        self._trouble = run.world.trouble(run.guard.trouble(self._loss, self._norm))
        if self._trouble:
            return False
        set_rates(run)
        return True

    def after_step(self) -> None:
        """The optimiser has taken the step: seeds move on, and whatever changed is in the log before the next one."""
        run = self.run
        run.recorder.step += 1
        self._steps += 1
        self._loss_sum += self._loss
        take_effect(run, run.kasmina.advance_step())
        drain(run)
        if run.recorder.step % run.config.telemetry_every_steps == 0:
            sample_step(run, self._loss, self._norm, self._monotonic() - self._step_began)


def result_of(session: Session) -> RunResult:
    """The result of a session that was left; raises InvalidInput for one that is still on."""
    if session.result is None:
        raise InvalidInput("the run is not over; its result is there once its context is left")
    return session.result
