"""The training loop: one linear function.

It waits for the log in three places only: a state change, until it is acknowledged; the end of an epoch, for the
decision; and the end of the run. Everything else is enqueued (ruling 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from esper.errors import LogUnavailable, Superseded
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.tolaria.branch import branch
from esper.tolaria.commands import apply_arrived
from esper.tolaria.config import RunConfig
from esper.tolaria.data import epoch_order
from esper.tolaria.divergence import Diverged
from esper.tolaria.effects import drain, set_rates, take_effect
from esper.tolaria.epoch_end import finish_epoch
from esper.tolaria.failure import Halt, recover, rescue, roll_back_as_asked
from esper.tolaria.forking import Fork
from esper.tolaria.gradients import backward, clip
from esper.tolaria.kernels import want_likely
from esper.tolaria.packet import Trained
from esper.tolaria.past import Past, Reached
from esper.tolaria.ports import Clock, KernelSource, Log
from esper.tolaria.random_streams import own_random_stream
from esper.tolaria.result import RunResult, abandon, finish
from esper.tolaria.run import find_device, make_run
from esper.tolaria.run_state import look
from esper.tolaria.start import begin
from esper.tolaria.swaps import swap_kernels
from esper.tolaria.tasks.task import Task
from esper.tolaria.telemetry import sample_step

INTERRUPTED: Final = ("interrupted", "asked to stop")


def train(  # noqa: C901, PLR0915 (the loop is one linear function on purpose)
    config: RunConfig,
    task: Task,
    log: Log,
    *,
    clock: Clock,
    objects: ObjectStore,
    verifier: CommandVerifier | None,
    run_id: str,
    library: KernelSource | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    incarnation: int = 1,
    past: Past | None = None,
    fork: Fork | None = None,
) -> RunResult:
    """Train one network from its first step to its last; returns what came of it.

    With a `past` the run follows its record first and is live where that ends; `fork` makes it another run there.

    `should_stop` is asked before every step: True ends the run as interrupted, and its last completed epoch is kept.
    Seeds germinate with the kernels of `library` as far as it has them by then, and nothing waits for one. Without a
    `verifier` every command is believed, which is for tests alone. Torch's global random stream is the
    caller's again afterwards; torch's thread count stays what the configuration says.

    Raises InvalidInput for a task, site or device that does not fit, Diverged where a run that follows its past does
    not come to what that says, Superseded where another process took the run over, and LogUnavailable, with where the
    run's state is kept, when the log takes no more facts. Whatever the model raises is raised on, once the history has
    it.
    """
    began = clock.monotonic()
    torch.set_num_threads(config.threads)
    with own_random_stream(find_device(config.device)):
        run = make_run(
            config,
            task,
            log,
            clock=clock,
            objects=objects,
            verifier=verifier,
            run_id=run_id,
            library=library,
            incarnation=incarnation,
            past=past,
            fork=fork,
        )
        task, config, recorder, kasmina = run.task, run.config, run.recorder, run.kasmina

        def forward(inputs: Tensor, targets: Tensor) -> Tensor:
            return task.loss(run.host(inputs), targets)

        try:
            begin(run)
            want_likely(library if config.policy != "none" else None, run.sites)
            while recorder.epoch < run.epochs:
                look(run)
                run.host.train()
                order = epoch_order(len(task.train), run.batch_size, run.steps_per_epoch, run.random.data)
                swap_kernels(run, task.train.inputs[order[0].to(run.device)])
                epoch_began, loss_sum, norm, trouble = clock.monotonic(), 0.0, 0.0, ""
                for indices in order.to(run.device):
                    if (ending := run.past.ending()) or should_stop():
                        return finish(run, *(ending or INTERRUPTED), clock.monotonic() - began)
                    branch(run, "step")
                    apply_arrived(run)
                    look(run)
                    if run.rollback_asked is not None:
                        break
                    step_began = clock.monotonic()
                    inputs, targets = task.train.inputs[indices], task.train.targets[indices]
                    run.optimizer.zero_grad()

                    # A seed in TRAINING learns from a pass of its own; nothing of the host notices (ruling 7).
                    with run.flops.counted("side_pass", "side_pass", run.batch_size):
                        kasmina.side_pass(inputs, targets, task.loss)
                    with run.flops.counted("training", "training", run.batch_size):
                        batch_loss, conflicts = backward(
                            forward,
                            inputs,
                            targets,
                            run.learners.joint,
                            microbatches=config.microbatches,
                            pcgrad=config.pcgrad,
                            generator=run.random.aggregation,
                        )
                    kasmina.after_backward()
                    norm = clip(run.learners, config.clip_norm)

                    # Judged before it is taken: a step into nowhere never reaches the weights.
                    loss = float(batch_loss)
                    trouble = run.past.trouble(run.guard.trouble(loss, norm))
                    if trouble:
                        break
                    set_rates(run)
                    run.optimizer.step()
                    recorder.step += 1
                    run.gradient_conflicts += conflicts
                    loss_sum += loss

                    # Seeds move on; whatever changed is in the log before the next step.
                    take_effect(run, kasmina.advance_step())
                    drain(run)
                    if recorder.step % config.telemetry_every_steps == 0:
                        sample_step(run, loss, norm, clock.monotonic() - step_began)
                if run.rollback_asked is not None:
                    roll_back_as_asked(run)
                    continue
                if trouble:
                    recover(run, trouble)
                    continue
                recorder.epoch += 1
                duration_s = clock.monotonic() - epoch_began
                finish_epoch(run, Trained(loss_sum / run.steps_per_epoch, norm, duration_s))
            look(run)
        except Halt as halt:
            return finish(run, "failed", str(halt), clock.monotonic() - began)
        except LogUnavailable as error:
            raise rescue(run, error) from error
        except (Diverged, Reached, Superseded):  # what this process writes would not be the run's history
            raise
        except Exception as error:  # of a person's model or data, anything
            abandon(run, error, clock.monotonic() - began)
            raise
        return finish(run, "completed", "", clock.monotonic() - began)
