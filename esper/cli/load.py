"""`esper.load`: the network of a recorded run as a plain `nn.Module`; a script calls it as it would `torch.load`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.history import find_run, history_of
from esper.cli.replay import recorded_run
from esper.cli.state import Place, folded
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.leyline.envelope import body_of
from esper.leyline.objects import ObjectStore
from esper.tolaria.config import RunConfig
from esper.weatherlight.alive import lives
from projections.run_queries import claims_of
from streams.objects import object_store
from streams.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from esper.record import Mark, Recorded
    from esper.tolaria.state import FlatState
    from projections.history import History


def load(
    run: str = "last",
    *,
    data_dir: str | Path | None = None,
    epoch: int | None = None,
    at: int | None = None,
    model: nn.Module | None = None,
    trust: bool = False,
) -> nn.Module:
    """The network of a run, with what grew in it as ordinary submodules, on the CPU and in evaluation mode.

    `run` is an id, the beginning of one, or `last`; `data_dir` is `ESPER_DATA`, else `./esper-data`. The network is
    that of the run's end: of its newest checkpoint where it was interrupted or died. `epoch` asks for the end of an
    earlier epoch and `at` for a number of optimiser steps; where no checkpoint of that place is kept, the steps from
    the one before are trained again from the record, every digest compared.

    Its outputs are those of the run's own network to the bit, so a seed that was mixed in and not FOSSILIZED yet is
    built in at the strength that it had, and a warning names it as unproven. There is no hook in it. The modules of
    seeds are those of `esper.karn`; what `torch.export` makes of it needs no Esper.

    The host is made by the run's task: a person's own file is run for that, and where somebody else recorded the run,
    only with `trust=True`. With `model` no task is loaded: that host takes the weights and the seeds, and is returned.

    Raises InvalidInput for a run that there is not, that still goes on (`epoch` and `at` may be asked of it), that has
    no checkpoint, or whose checkpoint is gone; CorruptState where a checkpoint does not fit the host.
    """
    if epoch is not None and at is not None:
        raise InvalidInput(f"epoch={epoch} and at={at} are two places; give one of them")
    folder = Settings.load(data=data_dir).data
    place = Place("epoch", epoch) if epoch is not None else Place("step", at) if at is not None else None
    with history_of(folder) as history:
        run_id = find_run(history, run)
        _, mark, _ = folded(history, run_id, place)
        if place is None:
            _check_over(history, run_id, mark)
        if model is None:
            check_code(history, run_id, folder, "load", trust=trust, way="trust=True")
        recorded = recorded_run(history, run_id)
    network, seeds = _network(recorded, mark, place, object_store(folder), model)
    if seeds:
        named = "; ".join(seeds)
        warnings.warn(f"run {run_id} has seeds in its network that are not proven yet: {named}", stacklevel=2)
    return network


def _check_over(history: History, run_id: str, mark: Mark) -> None:
    """Raise InvalidInput where the run's trainer may be at work still: its network is another one in a moment."""
    if mark.run_status.status != "running":
        return
    claim = claims_of(history, [run_id]).get(run_id)
    if claim is None or lives(body_of(claim).machine.process) is not False:
        done = mark.model.epoch
        raise InvalidInput(
            f"run {run_id} goes on still: wait until it is over, or load what it was at the end of an epoch: "
            f"epoch={done} is the last"
        )


def _network(
    recorded: Recorded, mark: Mark, place: Place | None, objects: ObjectStore, model: nn.Module | None
) -> tuple[nn.Module, list[str]]:
    """The network, and those of its seeds that are not proven."""
    from esper.tolaria.grown import grown_network, network_of, unproven  # noqa: PLC0415 - torch, once it is clear what is asked
    from esper.tolaria.tasks import recorded_task  # noqa: PLC0415

    root = recorded.root
    sites, config = root.sites, RunConfig.from_json(root.config_json)
    flat = _kept(recorded, mark, place, objects)
    if model is not None:
        if flat is None:
            raise InvalidInput(
                f"run {recorded.run_id} keeps no checkpoint of that place; without `model` it is trained up to there"
            )
        return network_of(model, sites, config, flat), unproven(flat)
    task = recorded_task(config.task, root.task_source, objects)
    if flat is None:
        from esper.cli.weights import trained_again  # noqa: PLC0415 - as above

        flat = trained_again(recorded, mark, task, objects)
    return grown_network(task, sites, config, flat), unproven(flat)


def _kept(recorded: Recorded, mark: Mark, place: Place | None, objects: ObjectStore) -> FlatState | None:
    """The state at a place by the checkpoint of it, the newest of all without a place; None where it is not kept.

    Raises InvalidInput and CorruptState where it is kept, on record, and not there any more.
    """
    from esper.tolaria.replay import latest_checkpoint, recorded_snapshot  # noqa: PLC0415 - torch

    kept = [fact for fact in recorded.checkpoints() if fact.checkpoint_saved.step > 0]
    if place is not None:
        step = mark.model.step
        found = latest_checkpoint(recorded, objects, step=step, sequence=recorded.facts[-1].sequence)
        exact = found is not None and found.checkpoint_saved.step == step and place.unit == "epoch"
        return recorded_snapshot(found, objects).flat if exact and found is not None else None
    if not kept:
        raise InvalidInput(f"run {recorded.run_id} has no checkpoint yet: it ended in its first epoch")
    try:
        return recorded_snapshot(kept[-1], objects).flat
    except InvalidInput as error:
        raise InvalidInput(
            f"{error}; it is the newest checkpoint of run {recorded.run_id}: bring the object back, or ask for "
            f"epoch={mark.model.epoch}, which is trained again from the record"
        ) from None
