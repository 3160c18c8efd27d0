"""A run's network taken out: `esper.load` as a plain module, `esper.grown_source` as code, `esper load` as a file."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import esper
from esper.cli.history import find_run, history_of
from esper.cli.output import one_line, say, say_json
from esper.cli.replay import recorded_run
from esper.cli.state import Place, folded, place_of
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_of
from esper.leyline.objects import ObjectStore
from esper.metric import figures_of_probe
from esper.record.run_status import marks
from esper.tolaria.config import RunConfig
from esper.weatherlight.alive import lives
from projections.run_queries import claims_of
from streams.objects import object_store
from streams.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from esper.record import Mark, Recorded
    from esper.tolaria.network_files import Growth
    from esper.tolaria.state import FlatState
    from projections.history import History

BEST: Final = "best"
Epoch = int | Literal["best"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run's network, what is told of it, and what grew in it; `inputs` are two samples where its task was loaded."""

    network: nn.Module
    about: dict[str, Any]
    grew: list[Growth]
    unproven: list[str]
    inputs: Any = None


def load(
    run: str = "last",
    *,
    data_dir: str | Path | None = None,
    epoch: Epoch | None = None,
    at: int | None = None,
    model: nn.Module | None = None,
    trust: bool = False,
) -> nn.Module:
    """The network of a run, with what grew in it as ordinary submodules, on the CPU and in evaluation mode.

    `run` is an id, the beginning of one, or `last`; `data_dir` is `ESPER_DATA`, else `./esper-data`. The network is
    that of the run's end: of its newest checkpoint where it was interrupted or died. `epoch` asks for the end of an
    earlier epoch and `at` for a number of optimiser steps; where no checkpoint of that place is kept, the steps from
    the one before are trained again from the record, every digest compared. `epoch="best"` is the one that is best
    by the main metric on the probe set, of those whose checkpoints are kept.

    Its outputs are those of the run's own network to the bit, so a seed that was mixed in and not FOSSILIZED yet is
    built in at the strength that it had, and a warning names it as unproven. There is no hook in it. The modules of
    seeds are those of `esper.karn`; what `torch.export` makes of it needs no Esper.

    The host is made by the run's task: a person's own file is run for that, and where somebody else recorded the run,
    only with `trust=True`. With `model` no task is loaded: that host, freshly made with the sizes that it had, takes
    the weights and the seeds, and is returned.

    Raises InvalidInput for a run that there is not, that still goes on (`epoch` and `at` may be asked of it), that has
    no checkpoint, or whose checkpoint is gone; CorruptState where a checkpoint does not fit the host, with the first
    parameter that does not and both shapes.
    """
    loaded = loaded_of(run, data_dir=data_dir, epoch=epoch, at=at, model=model, trust=trust)
    _warn(loaded)
    return loaded.network


def grown_source(
    run: str = "last",
    *,
    data_dir: str | Path | None = None,
    epoch: Epoch | None = None,
    at: int | None = None,
    model: nn.Module | None = None,
    inputs: Any = None,
    trust: bool = False,
) -> str:
    """The network of a run as PyTorch code that needs neither Esper nor the classes that it was made of.

    Run, it leaves a module called `network`, which takes the state dictionary of what `esper.load` gives, and then
    computes what that does. What grew is called by its blueprint's name. `inputs` are a batch of two samples or more, a
    tensor, a dict of some, or a tuple for several arguments; a task's own are taken where nothing is said. The rest as
    in `load`.

    Raises InvalidInput also where `torch.export` cannot follow the network, and with `model` where there are no inputs.
    """
    from esper.tolaria import network_files  # noqa: PLC0415 - torch, once it is clear what is asked

    loaded = loaded_of(run, data_dir=data_dir, epoch=epoch, at=at, model=model, trust=trust)
    given = loaded.inputs if inputs is None else inputs
    if given is None:
        raise InvalidInput("with a model of your own the source needs inputs: a batch of two samples or more")
    _warn(loaded)
    return network_files.source(loaded.network, given, loaded.about, loaded.grew)


def load_command(data_dir: Path, word: str, at: str | None, out: Path, *, trust: bool, as_json: bool) -> None:
    """Write the network to a file: its name's end says whether weights, source, a program of torch, or ONNX."""
    from esper.cli.weights import check_writable, write_whole  # noqa: PLC0415 - torch, as in `load`
    from esper.tolaria import network_files  # noqa: PLC0415

    if out.suffix not in network_files.FORMS:
        raise InvalidInput(f"{out} must end with {', '.join(network_files.FORMS)}, which says what it is to hold")
    check_writable(out, "--out")
    place = None if at in {None, BEST} else place_of(str(at))
    epoch: Epoch | None = "best" if at == BEST else place.number if place and place.unit == "epoch" else None
    step = place.number if place is not None and place.unit == "step" else None
    if out.suffix == ".safetensors" and _is_of_script(data_dir, word):
        parts = _parts_of_script(data_dir, word, epoch=epoch, at=step)
        described, grew, files = parts.described, parts.grew, parts.files(out)
    else:
        loaded = loaded_of(word, data_dir=data_dir, epoch=epoch, at=step, trust=trust, way="--trust")
        described = network_files.manifest(loaded.network, loaded.grew, loaded.about)
        grew, files = loaded.grew, _files(loaded, out)
    written = [out]
    for name, content in files:
        write_whole(name, content, "--out")
        written = [*dict.fromkeys([*written, name])]
    if as_json:
        say_json({**described, "files": list(map(str, written))})
        return
    say(one_line(f"{', '.join(map(str, written))}: the network of run {described['run']} at step {described['step']}"))
    for each in grew:
        say(one_line(f"  {each}"))


def carried(data_dir: Path, run_id: str, *, trust: bool) -> dict[str, bytes]:
    """The files of a run's network that an export takes along, by their names; code where there can be some.

    A script makes its model itself, so its run has weights and manifest alone.
    """
    if _is_of_script(data_dir, run_id):
        kept = _parts_of_script(data_dir, run_id).files(Path("network.safetensors"))
        return {path.name: content for path, content in kept}
    loaded = loaded_of(run_id, data_dir=data_dir, trust=trust, way="--trust")
    files = {path.name: content for path, content in _files(loaded, Path("network.safetensors"))}
    try:
        files |= {path.name: content for path, content in _files(loaded, Path("network.py"))}
    except InvalidInput as error:
        files["network.py"] = f"# {error}\n".encode()
    return files


def _files(loaded: Loaded, out: Path) -> list[tuple[Path, bytes]]:
    """What is to be written: the file itself, and beside weights what they are."""
    from esper.tolaria import network_files  # noqa: PLC0415 - torch, as in `load`

    described = network_files.manifest(loaded.network, loaded.grew, loaded.about)
    if out.suffix == ".safetensors":
        text = json.dumps(described, indent=2) + "\n"
        return [
            (out, network_files.weights(loaded.network, described)),
            (out.with_suffix(".json"), text.encode()),
        ]
    if out.suffix == ".py":
        return [(out, network_files.source(loaded.network, loaded.inputs, loaded.about, loaded.grew).encode())]
    make: Callable[[nn.Module, Any], bytes] = network_files.onnx if out.suffix == ".onnx" else network_files.program
    return [(out, make(loaded.network, loaded.inputs))]


def _warn(loaded: Loaded) -> None:
    if loaded.unproven:
        named = "; ".join(loaded.unproven)
        warnings.warn(
            f"run {loaded.about['run']} has seeds in its network that are not proven yet: {named}", stacklevel=3
        )


def loaded_of(
    run: str,
    *,
    data_dir: str | Path | None = None,
    epoch: Epoch | None = None,
    at: int | None = None,
    model: nn.Module | None = None,
    trust: bool = False,
    way: str = "trust=True",
) -> Loaded:
    """What `load` gives, with what is told of it; the arguments are those of `load`, `way` is how one says `trust`."""
    if epoch is not None and at is not None:
        raise InvalidInput(f"epoch={epoch} and at={at} are two places; give one of them")
    if isinstance(epoch, str) and epoch != BEST:
        raise InvalidInput(f"epoch={epoch!r} is none: give a number, or {BEST!r}")
    folder = Settings.load(data=data_dir).data
    with history_of(folder) as history:
        run_id = find_run(history, run)
        recorded = recorded_run(history, run_id)
        if model is None and recorded.root.HasField("script"):
            raise InvalidInput(
                f"run {run_id} is of a script of your own, which makes its model itself: load it in Python with "
                f"esper.load({run_id!r}, model=...), which takes the model as the script makes it; its weights alone "
                f"are written by `esper load {run_id} --out net.safetensors`"
            )
        mark, place = _found(history, recorded, object_store(folder), epoch, at)
        if model is None:
            check_code(history, run_id, folder, "load", trust=trust, way=way)
    return _loaded(recorded, mark, place, object_store(folder), model)


def _found(
    history: History, recorded: Recorded, objects: ObjectStore, epoch: Epoch | None, at: int | None
) -> tuple[Mark, Place | None]:
    """The place that is asked for, None for the newest; raises InvalidInput where the run goes on there."""
    if isinstance(epoch, str):
        epoch = _best(recorded, objects)
    place = Place("epoch", epoch) if epoch is not None else Place("step", at) if at is not None else None
    _, mark, _ = folded(history, recorded.run_id, place)
    if place is None:
        _check_over(history, recorded.run_id, mark)
    return mark, place


@dataclass(frozen=True, slots=True)
class Parts:
    """What is kept of a script's network without its model, by the names that `esper state --load` gives tensors."""

    tensors: dict[str, Any]
    described: dict[str, Any]
    grew: list[Growth]

    def files(self, out: Path) -> list[tuple[Path, bytes]]:
        """The weights, and beside them what they are."""
        from esper.tolaria.network_files import saved  # noqa: PLC0415 - torch, as in `load`

        text = json.dumps(self.described, indent=2) + "\n"
        return [(out, saved(self.tensors, self.described)), (out.with_suffix(".json"), text.encode())]


def _is_of_script(data_dir: Path, word: str) -> bool:
    with history_of(data_dir) as history:
        return recorded_run(history, find_run(history, word)).root.HasField("script")


def _parts_of_script(data_dir: Path, word: str, *, epoch: Epoch | None = None, at: int | None = None) -> Parts:
    from esper.cli.weights import weights  # noqa: PLC0415 - torch, as in `load`
    from esper.tolaria.network_files import growths, listed  # noqa: PLC0415

    objects = object_store(data_dir)
    with history_of(data_dir) as history:
        recorded = recorded_run(history, find_run(history, word))
        mark, place = _found(history, recorded, objects, epoch, at)
    flat = _kept(recorded, mark, place, objects)
    if flat is None:
        raise _not_kept(recorded, objects)
    tensors, grew = weights(flat), growths(flat, recorded.root.sites)
    return Parts(tensors, listed(tensors, grew, _about(recorded, mark)), grew)


def _about(recorded: Recorded, mark: Mark) -> dict[str, Any]:
    return {
        "run": recorded.run_id,
        "task": recorded.root.task,
        "step": mark.model.step,
        "epoch": mark.model.epoch,
        "probe_loss": mark.model.probe_loss,
        "esper": esper.__version__,
    }


def _not_kept(recorded: Recorded, objects: ObjectStore) -> InvalidInput:
    kept = ", ".join(map(str, _kept_epochs(recorded, objects))) or "none"
    way = "name one of them" if recorded.root.HasField("script") else "without `model` it is trained up to there"
    return InvalidInput(
        f"run {recorded.run_id} keeps no checkpoint of that place (epochs that are kept: {kept}); {way}"
    )


def _kept_epochs(recorded: Recorded, objects: ObjectStore) -> dict[int, Event]:
    """The epochs at whose end a checkpoint is there, each with its EpochCompleted."""
    from esper.tolaria.replay import is_kept  # noqa: PLC0415 - torch, as in `load`

    steps = {fact.checkpoint_saved.step for fact in recorded.checkpoints() if is_kept(fact, objects)}
    path = {mark.sequence for mark in marks(recorded.state)}
    ends = [fact for fact in recorded.facts if fact.HasField("epoch_completed") and fact.sequence in path]
    return {fact.epoch: fact for fact in ends if fact.global_step in steps}


def _best(recorded: Recorded, objects: ObjectStore) -> int:
    """The epoch whose probe came best by the main metric, of those that are kept; of equals the one of lower loss."""
    ends = {epoch: fact.epoch_completed for epoch, fact in _kept_epochs(recorded, objects).items()}
    if not ends:
        raise InvalidInput(f"run {recorded.run_id} keeps no checkpoint of an epoch's end, so there is no best one")

    def rank(epoch: int) -> tuple[bool, float, float, int]:
        figure, loss = figures_of_probe(ends[epoch])[0], ends[epoch].state.validation_loss
        value = figure.value if figure.lower_is_better else -figure.value
        return math.isnan(value), value, loss, epoch

    return min(ends, key=rank)


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


def _loaded(
    recorded: Recorded, mark: Mark, place: Place | None, objects: ObjectStore, model: nn.Module | None
) -> Loaded:
    from esper.tolaria.grown import grown_network, network_of, unproven  # noqa: PLC0415 - torch, once it is clear what is asked
    from esper.tolaria.network_files import growths, some  # noqa: PLC0415
    from esper.tolaria.tasks import recorded_task  # noqa: PLC0415

    root = recorded.root
    sites, config = root.sites, RunConfig.from_json(root.config_json)
    flat = _kept(recorded, mark, place, objects)
    about = _about(recorded, mark)
    if model is not None:
        if flat is None:
            raise _not_kept(recorded, objects)
        return Loaded(network_of(model, sites, config, flat), about, growths(flat, sites), unproven(flat))
    task = recorded_task(config.task, root.task_source, objects)
    if flat is None:
        from esper.cli.weights import trained_again  # noqa: PLC0415 - as above

        flat = trained_again(recorded, mark, task, objects)
    network = grown_network(task, sites, config, flat)
    return Loaded(network, about, growths(flat, sites), unproven(flat), some(task.probe.inputs))


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
