"""`esper run`: what may grow, the drill's commands, and both trainers until the archive has it all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts.leyline.v1.event_pb2 import SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    SEED_OPERATION_GERMINATE,
    AdaptationCommand,
    CommandSeedOperation,
)
from esper.cli import INTERRUPTED, RUN_FAILED
from esper.cli.history import check_writable
from esper.cli.output import complain, say, say_json, visible
from esper.cli.trainers import PREPARE_S, Trainers
from esper.errors import InvalidInput
from esper.karn.approval import Clearance
from esper.karn.dossier import Dossier
from esper.karn.table import find_by_name, with_names
from esper.kasmina.settings import Lifecycle, SeedSettings
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, new_event
from esper.leyline.names import meant
from esper.leyline.signing import KeyRing
from esper.tolaria.config import Policy, RatePolicy, RunConfig
from esper.tolaria.own_code import check_function
from esper.weatherlight import client
from esper.weatherlight.beginning import Plan, trace_file
from streams.keys import load_key_ring
from streams.settings import Settings

if TYPE_CHECKING:
    from esper.cli.summary import Summary

TASKS: Final = (
    "digits",
    "digits-wide",
    "chars",
    "chars-narrow",
    "chars-wide",
    "spirals",
    "spirals-wide",
    "tab",
    "tab-wide",
    "tabn",
    "tabn-wide",
    "doc",
    "doc-wide",
)


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
    lifecycle: Lifecycle | None
    """None is the default of every run."""
    rate_policy: RatePolicy | None
    """None is the default of every task."""
    device: str
    pool: tuple[str, ...]
    drill: tuple[str, ...]
    compiled_kernels: bool
    control: bool
    ignore_history: bool
    as_json: bool
    static: bool | None = None
    """None: wherever a control run stands beside a built-in task."""
    seeds: tuple[int, ...] = ()
    """Random seeds, one run after the other; none of them is the run of `seed` alone."""
    settings: tuple[str, ...] = ()
    """Each `NAME=VALUE`, over what the options say."""
    dossier: Dossier | None = None
    """What the history knows about blueprints; None is what it knows when the run begins."""
    verb: str = "run"
    """The command that was given."""
    in_process: bool = False
    """Train in the command's own process, and nothing beside it."""
    profile: bool = False
    """Write a trace of the grown run."""

    def trace_of(self, run_id: str) -> str | None:
        """The trace of the run where one was asked for and is there."""
        if not self.profile:
            return None
        file = trace_file(self.data_dir, run_id)
        return str(file) if file.is_file() else None

    @property
    def compares(self) -> bool:
        """Whether the structure that grows is trained from its first step afterwards."""
        if self.static is not None:
            return self.static
        built_in = self.task.partition("@")[0] in TASKS
        return self.control and built_in and self.policy != "none" and not self.drill

    def configs(self, dossier: Dossier | None = None) -> tuple[RunConfig, RunConfig | None]:
        """The grown run's and its control's configuration; without growth a run is its own control.

        `dossier` is by default the request's, or what the data folder's history knows. Raises InvalidInput.
        """
        dossier = dossier or self.dossier
        if dossier is None:
            from esper.weatherlight.beginning import dossier_of  # noqa: PLC0415 - imports DuckDB

            dossier = dossier_of(self.data_dir, outcomes=not self.ignore_history)

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
            seeds=SeedSettings() if self.lifecycle is None else SeedSettings(lifecycle=self.lifecycle),
        )
        if self.rate_policy is not None:
            grown = replace(grown, rate_policy=self.rate_policy)
        if self.settings:
            from esper.tolaria.settings_text import with_settings  # noqa: PLC0415 - most runs have none

            grown = with_settings(grown, self.settings)
        wanted = self.control and self.policy != "none" and not self.in_process
        return grown, replace(grown, policy="none") if wanted else None


def run_command(request: RunRequest) -> int:
    """Do the run and print its summary; the exit code. Raises InvalidInput and LogUnavailable in one line each."""
    if request.settings == ("help",):
        from esper.cli.set_option import show_settings  # noqa: PLC0415

        show_settings(as_json=request.as_json)
        return 0
    if request.seeds:
        from esper.cli.seeds import seeds_command  # noqa: PLC0415 - most commands train one run

        return seeds_command(request)
    if request.in_process:
        return _in_this_process(request)
    summary = trained(request)
    if summary is None:
        return RUN_FAILED
    # The object is the last line of stdout, and the last thing that happens: the processes have ended by now.
    say_json(summary.to_json()) if request.as_json else say(summary.text())
    end = summary.grown.finished
    return INTERRUPTED if end is not None and end.status == "interrupted" else 0


def _in_this_process(request: RunRequest) -> int:
    settings = Settings.load(data=request.data_dir)
    check_names(request)
    check_writable(request.data_dir)
    load_key_ring(settings)
    from esper.cli.in_process import run_in_process  # noqa: PLC0415 - imports torch in time

    return run_in_process(request, settings)


def trained(request: RunRequest) -> Summary | None:
    """The summary of the run, once its processes have ended; None where it failed, which is said. Raises as above."""
    since = time.monotonic()
    settings = Settings.load(data=request.data_dir)
    check_names(request)
    check_writable(request.data_dir)
    ring = load_key_ring(settings)
    with Trainers(request.data_dir) as trainers, contextlib.ExitStack() as starting:
        own = names_own_code(request.task)
        starter = None if own else starting.enter_context(client.launched(request.data_dir, settings.brokers))
        from esper.cli.history import control_of, new_run_id  # noqa: PLC0415 - beside the start of the processes
        from esper.cli.static import StaticArm  # noqa: PLC0415
        from esper.cli.training import RunCommand  # noqa: PLC0415

        grown, control = request.configs()
        check_pool(grown)
        run_id = new_run_id()
        configs, names = {run_id: grown}, {run_id: "grown", control_of(run_id): "control"}
        if control is not None:
            configs[control_of(run_id)] = replace(control, control_of=run_id)
        plans = dict.fromkeys(configs, Plan(fresh=True)) | {run_id: Plan(fresh=True, profile=request.profile)}
        trainers.start(names, configs, plans)
        if own:
            _prepare_alone(trainers)
        name = f"esper run {run_id}"
        with client.join(request.data_dir, client=name, brokers=settings.brokers, starter=starter) as lease:
            instructor = Instructor(run_id, ids_of(request.drill), ring)
            static = StaticArm(run_id, grown, request.data_dir) if request.compares else None
            command = RunCommand(request, ring, lease, trainers, instructor=instructor, static=static)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return None
            summary = command.summary(since)  # while the processes end
    return replace(summary, cost=command.cost(since))


def _prepare_alone(trainers: Trainers) -> None:
    """Wait until a person's own task is loaded and tried: no log is started for one that does not fit.

    Raises InvalidInput for that; what its code printed stands above.
    """
    try:
        trainers.wait_prepared(PREPARE_S)
    except InvalidInput:
        for trainer in trainers.trainers:
            for line in trainer.printed():
                sys.stderr.write(visible(f"{trainer.name:<8} | {line}\n"))
        raise


def check_names(request: RunRequest) -> None:
    """Raise InvalidInput for what can be found wrong without torch: names, missing files, a policy that nobody has."""
    if request.static and request.policy == "none":
        raise InvalidInput("--static trains what grew, and with --policy none nothing grows; leave one of them out")
    if request.policy == "learned":
        from esper.weatherlight.beginning import check_learned  # noqa: PLC0415 - imports DuckDB

        check_learned(request.data_dir)
    if request.in_process and (request.static or request.drill):
        raise InvalidInput("--in-process trains one run alone; leave --static and --drill out")
    check_task(request.task)
    if _DEVICE.fullmatch(request.device) is None:
        raise InvalidInput(f"device {request.device!r} is unknown; choose cpu, cuda or cuda:N")
    grown, _ = request.configs(Dossier())
    if not set(grown.pool) <= set(POOLS):
        check_pool(request.configs()[0])


def names_own_code(task: str) -> bool:
    """Whether a task is a person's own: path/to/file.py:function."""
    return ".py:" in task and not task.startswith("cifar10:")


def check_task(task: str) -> None:
    """Raise InvalidInput for what is wrong and can be seen without loading a task: a file or function is missing."""
    path, colon, function = task.rpartition(":")
    if task.startswith("cifar10:"):
        return
    if not colon:
        if task.partition("@")[0] not in TASKS:
            known = f"choose {', '.join(TASKS)}, cifar10:FOLDER or path/to/file.py:function"
            raise InvalidInput(f"task {task!r} is unknown; {meant(task.partition('@')[0], TASKS, known)}")
        return
    if not path.endswith(".py") or not function.isidentifier():
        raise InvalidInput(f"task {task!r} is no path/to/file.py:function; see `esper run --help`")
    if not Path(path).is_file():
        raise InvalidInput(f"task file {path} does not exist")
    check_function(Path(path), function)


POOLS: Final = ("default", "safe")


PRODUCER: Final = "drill"


def ids_of(names: Iterable[str]) -> tuple[str, ...]:
    """Pools by their names, blueprints by their ids; raises InvalidInput for a name that is neither."""
    return tuple(name if name in POOLS else find_by_name(name).blueprint_id for name in names)


def check_pool(config: RunConfig) -> None:
    """Raise InvalidInput for a blueprint of the run's pool that it is not cleared for."""
    clearance = Clearance(config.dossier.approvals, drill=config.drill)
    for name in config.pool:
        if name not in POOLS:
            clearance.check(find_by_name(name))


class Instructor:
    """Watches a run's events, and has its stressors germinate once, each at a site of its own."""

    def __init__(self, run_id: str, stressors: Sequence[str], ring: KeyRing) -> None:
        self._run_id = run_id
        self._waiting = tuple(stressors)
        self._ring = ring

    def see(self, event: Event, brokers: str) -> None:
        """Send the commands where this is the run's start; raises LogUnavailable where no broker takes them."""
        if not self._waiting or event.run_id != self._run_id or body_name(event) != "run_started":
            return
        commands = germinations(self._run_id, self._waiting, event.run_started.sites, time.time_ns())
        left_out = self._waiting[len(commands) :]
        if left_out:
            complain(f"no site is free for {with_names(', '.join(left_out))}; the drill goes on without")
        self._waiting = ()
        from streams.producer import publish_once  # noqa: PLC0415 - a mistyped name is told without a Kafka client

        asyncio.run(publish_once(brokers, self._ring, commands))


def germinations(run_id: str, stressors: Sequence[str], sites: Sequence[SiteDescription], now_ns: int) -> list[Event]:
    """A command for each stressor, as far as there are sites that offer it, one site each, in order."""
    free = list(sites)
    commands = []
    for blueprint_id in stressors:
        site = next((each for each in free if blueprint_id in [o.blueprint_id for o in each.options]), None)
        if site is None:
            break
        free.remove(site)
        commands.append(_germinate(run_id, site.seed_id, blueprint_id, now_ns))
    return commands


def _germinate(run_id: str, seed_id: str, blueprint_id: str, now_ns: int) -> Event:
    event_id = ids.uuid7(now_ns, os.urandom(10))
    body = AdaptationCommand(
        version=1,
        command_id=ids.text(event_id),
        command_type=COMMAND_TYPE_SEED,
        target_seed_id=seed_id,
        issued_by=PRODUCER,
        seed_operation=CommandSeedOperation(operation=SEED_OPERATION_GERMINATE, blueprint_id=blueprint_id),
    )
    body.issued_at.FromNanoseconds(now_ns)
    return new_event(body, event_id=event_id, run_id=run_id, producer=PRODUCER, recorded_at_ns=now_ns)
