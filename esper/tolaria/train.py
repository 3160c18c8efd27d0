"""The training loop: one linear function.

It waits for the log in three places only: a state change, until it is acknowledged; the end of an epoch, for the
decision; and the end of the run. Everything else is enqueued (ruling 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.errors import LogUnavailable, Superseded
from esper.tolaria.commands import apply_arrived, drain, set_rates, take_effect
from esper.tolaria.config import RunConfig
from esper.tolaria.data import epoch_order, own_random_stream
from esper.tolaria.divergence import Diverged, RecordEnded
from esper.tolaria.epoch import Trained, finish_epoch, sample_step
from esper.tolaria.gradients import backward, clip
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.rollback import Halt, recover, rescue, roll_back_as_asked
from esper.tolaria.run import TargetStepReached, find_device, make_run, stop_at_target_step
from esper.tolaria.session import RunResult, abandon, begin, begin_fork, finish, interrupt
from esper.tolaria.swaps import swap_kernels
from esper.tolaria.tasks.task import Task
from esper.tolaria.world import World


def train(  # noqa: C901, PLR0912, PLR0915 (the loop is one linear function on purpose)
    config: RunConfig, task: Task, world: World, *, run_id: str
) -> RunResult:
    """Train one network from its first step to its last; returns what came of it.

    Torch's global random stream is the caller's again afterwards; torch's thread count stays what the configuration
    says.

    Raises InvalidInput for a task, site or device that does not fit, Diverged where the run does not come to what its
    world has on record, TargetStepReached where the world asks for the state at a step, Superseded where another
    process took the run over, RecordEnded where the run failed or was interrupted on record and now is not, Interrupted
    where the disk is full, memory ends or a device is lost, and LogUnavailable, with where the run's state is kept,
    when the log takes no more facts. Whatever the model raises is raised on, once the history has it.
    """
    monotonic = world.outside.clock.monotonic
    began = monotonic()
    torch.set_num_threads(config.threads)
    with own_random_stream(find_device(config.device)):
        run = make_run(config, task, world, run_id=run_id)
        task, config, recorder, kasmina = run.task, run.config, run.recorder, run.kasmina

        def forward(inputs: Tensor, targets: Tensor) -> Tensor:
            return task.loss(run.host(inputs), targets)

        try:
            begin(run)
            while recorder.epoch < run.epochs:
                stop_at_target_step(run)
                run.host.train()
                order = epoch_order(len(task.train), run.batch_size, run.steps_per_epoch, run.random.data)
                run.mid_epoch = True
                swap_kernels(run, task.train.inputs[order[0].to(run.device)])
                epoch_began, loss_sum, norm, trouble = monotonic(), 0.0, 0.0, ""
                for indices in order.to(run.device):
                    # Between two steps: what comes from outside.
                    if (ending := world.ending()) is not None:
                        return finish(run, *ending, monotonic() - began)
                    begin_fork(run, "step")
                    apply_arrived(run)
                    stop_at_target_step(run)
                    if run.rollback_asked is not None:
                        break

                    step_began = monotonic()
                    inputs, targets = task.train.inputs[indices], task.train.targets[indices]
                    run.optimizer.zero_grad()
                    # A seed in TRAINING learns from a pass of its own; nothing of the host notices (ruling 7).
                    with run.flops.counted("side_pass", "side_pass", run.batch_size):
                        kasmina.side_pass(inputs, targets, task.loss)
                    with run.flops.counted("training", f"training {kasmina.measured}", run.batch_size):
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

                    # Judged before it is taken: a step that must not be taken never reaches the weights.
                    loss = float(batch_loss)
                    trouble = world.trouble(run.guard.trouble(loss, norm))
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
                        sample_step(run, loss, norm, monotonic() - step_began)

                if run.rollback_asked is not None:
                    roll_back_as_asked(run)
                elif trouble:
                    recover(run, trouble)
                else:
                    recorder.epoch += 1
                    finish_epoch(run, Trained(loss_sum / run.steps_per_epoch, norm, monotonic() - epoch_began))
            stop_at_target_step(run)
        except Halt as halt:
            return finish(run, "failed", str(halt), monotonic() - began)
        except LogUnavailable as error:
            raise rescue(run, error) from error
        except (Diverged, TargetStepReached, RecordEnded, Superseded):  # what this process writes is not its history
            raise
        except Exception as error:  # of a person's model or data, anything
            if fault := fault_of_machine(error):
                raise interrupt(run, fault, monotonic() - began) from error
            abandon(run, error, monotonic() - began)
            raise
        return finish(run, "completed", "", monotonic() - began)
