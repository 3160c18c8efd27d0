"""`esper run`: check what was asked for, start what is needed, train with growth and without, show it, sum it up.

Whoever mistypes a name is told before anything is started. Then the processes start, first the one that imports torch,
and whatever this one needs is imported beside that.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from esper.cli import RUN_FAILED
from esper.cli.folder import check_writable
from esper.cli.output import complain, say, say_json
from esper.cli.trainers import Trainers
from esper.errors import InvalidInput
from esper.karn.dossier import Dossier
from esper.kasmina.settings import SeedSettings
from esper.tolaria.config import Policy, RunConfig
from esper.weatherlight import client
from streams.keys import load_key_ring
from streams.settings import Settings

TASKS: Final = ("digits", "digits-wide", "chars", "chars-narrow", "chars-wide", "spirals", "spirals-wide")
"""The built-in tasks of `esper.tolaria.tasks`, which imports torch."""
_DEVICE: Final = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a person asked for on the command line."""

    data_dir: Path
    task: str
    epochs: int | None
    seed: int
    policy: Policy
    lifecycle: Literal["full", "direct"]
    device: str
    pool: tuple[str, ...]
    drill: tuple[str, ...]
    compiled_kernels: bool
    control: bool
    ignore_history: bool
    as_json: bool
    verb: str = "run"
    """The command that was given."""

    def configs(self, dossier: Dossier | None = None) -> tuple[RunConfig, RunConfig | None]:
        """The grown run's and its control's configuration; without growth a run is its own control.

        `dossier` is by default what the data folder's history knows about blueprints. Raises InvalidInput.
        """
        if dossier is None:
            from esper.weatherlight.beginning import dossier_of  # noqa: PLC0415 - imports DuckDB

            dossier = dossier_of(self.data_dir, outcomes=not self.ignore_history)
        from esper.cli.pool import ids_of  # noqa: PLC0415 - imports what writes to the log

        grown = RunConfig(
            task=self.task,
            epochs=self.epochs,
            seed=self.seed,
            policy=self.policy,
            device=self.device,
            pool=ids_of((*self.pool, *self.drill)),
            drill=bool(self.drill),
            dossier=dossier,
            compiled_kernels=self.compiled_kernels,
            seeds=SeedSettings(lifecycle=self.lifecycle),
        )
        wanted = self.control and self.policy != "none"
        return grown, replace(grown, policy="none") if wanted else None


def run_command(request: RunRequest) -> int:
    """Do the run and print its summary; the exit code. Raises InvalidInput and LogUnavailable in one line each."""
    since = time.monotonic()
    settings = Settings.load(data=request.data_dir)
    check_names(request)
    check_writable(request.data_dir)
    ring = load_key_ring(settings)
    with (
        Trainers(request.data_dir) as trainers,
        client.launched(request.data_dir, settings.brokers) as starter,
    ):
        from esper.cli.history import control_of, new_run_id  # noqa: PLC0415 - beside the start of the processes
        from esper.cli.pool import Instructor, check_pool, ids_of  # noqa: PLC0415
        from esper.cli.training import RunCommand  # noqa: PLC0415

        grown, control = request.configs()
        check_pool(grown)
        run_id = new_run_id()
        configs, names = {run_id: grown}, {run_id: "grown", control_of(run_id): "control"}
        if control is not None:
            configs[control_of(run_id)] = replace(control, control_of=run_id)
        trainers.start(names, configs)
        name = f"esper run {run_id}"
        with client.join(request.data_dir, client=name, brokers=settings.brokers, starter=starter) as lease:
            instructor = Instructor(run_id, ids_of(request.drill), ring)
            command = RunCommand(request, ring, lease, trainers, instructor=instructor)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return RUN_FAILED
            summary = command.summary(since)  # while the processes end
    # The object is the last line of stdout, and the last thing that happens: the processes have ended by now.
    summary = replace(summary, cost=command.cost(since))
    say_json(summary.to_json()) if request.as_json else say(summary.text())
    return 0


def check_names(request: RunRequest) -> None:
    """Raise InvalidInput for what can be found wrong without torch and the history: names, missing files."""
    from esper.cli.pool import POOLS, check_pool  # noqa: PLC0415 - as above

    _check_task(request.task)
    if _DEVICE.fullmatch(request.device) is None:
        raise InvalidInput(f"device {request.device!r} is unknown; choose cpu, cuda or cuda:N")
    grown, _ = request.configs(Dossier())
    if not set(grown.pool) <= set(POOLS):
        check_pool(request.configs()[0])


def _check_task(task: str) -> None:
    """Find out at once what can be found out without loading the task: a file that is missing."""
    path, colon, function = task.rpartition(":")
    if task.startswith("cifar10:"):
        return
    if not colon:
        if task.partition("@")[0] not in TASKS:
            known = ", ".join(TASKS)
            raise InvalidInput(f"task {task!r} is unknown; choose {known}, cifar10:FOLDER or path/to/file.py:function")
        return
    if not path.endswith(".py") or not function.isidentifier():
        raise InvalidInput(f"task {task!r} is no path/to/file.py:function; see `esper run --help`")
    if not Path(path).is_file():
        raise InvalidInput(f"task file {path} does not exist")
