"""A recorded script, run again in this process under a world that was appointed for it."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.tolaria.appointed import Appointment, RunOver, appoint
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.script import changed, lay_out
from esper.tolaria.session import RunResult
from esper.tolaria.world import LiveWorld, World


@dataclass(frozen=True, slots=True)
class Again:
    """A script that is run again now: where, and the runs up to the one that is meant, by id and configuration."""

    script: Script
    path: Path
    objects: ObjectStore
    runs: Sequence[tuple[str, RunConfig | None]]
    threads: int


Ranks = Callable[[Again], contextlib.AbstractContextManager[None]]
"""Starts the other ranks of a script beside this process, which is rank 0, and ends them with the context."""


def alone(again: Again) -> contextlib.AbstractContextManager[None]:
    """Whoever cannot start other ranks; raises InvalidInput for a script that several trained together."""
    if again.script.ranks:
        raise InvalidInput(f"script {again.script.path} was trained by several processes, which nobody starts here")
    return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class RecordedScript:
    """A person's script as a run recorded it.

    `earlier` are the runs that it grew before this one, None for one that never began; `ranks` starts other processes.
    `data` is the fingerprint of its data on record; running it leaves in `reasons` why it may not come to the same.
    """

    name: str
    script: Script
    objects: ObjectStore
    earlier: Sequence[Recorded | None] = ()
    ranks: Ranks = alone
    data: str = ""
    reasons: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Empty: the script reads its samples itself, and what it comes to is compared step by step."""
        return ""

    def train(self, config: RunConfig, world: World, *, run_id: str, fresh_steps: int = 0) -> RunResult:
        """Run the script until the run of its `esper.grow` is over; returns what came of that.

        The file where it lay is run if it and its neighbours are what they were, so that it finds its data beside it;
        otherwise a copy of what was recorded. It gets the recorded arguments and folder. Modules of its own are
        imported anew, and whatever the run raises is raised on. With `fresh_steps` the run is new
        and records the same script; its epochs have so many steps where its loader does not say.
        """
        script = self.script
        new = script if fresh_steps else None
        meant = Appointment(config, world, run_id, script=new, steps=fresh_steps, data=self.data, reasons=self.reasons)
        appointments = [*(self._before(each, world) for each in self.earlier), meant]
        runs = [(each.run_id, each.config) for each in appointments]
        with tempfile.TemporaryDirectory(prefix="esper-script-") as folder:
            path = lay_out(script, self.objects, Path(folder)) if changed(script) else Path(script.path)
            with self.ranks(Again(script, path, self.objects, runs, config.threads)):
                code = self._code_of(meant, path, appointments)
        if meant.error is not None:
            raise meant.error
        if meant.result is None:
            how = "before its run was over" if code else "without a run of esper.grow that was over"
            raise InvalidInput(f"script {script.path} ended{f' with exit code {code}' if code else ''} {how}")
        return meant.result

    def _code_of(self, meant: Appointment, path: Path, appointments: Sequence[Appointment]) -> object:
        """The script's exit code. Where it raises, what ended the run is raised, which may be another error's cause."""
        try:
            return run_again(self.script, path, appointments)
        except Exception:
            if meant.error is not None:
                raise meant.error from None
            raise

    def _before(self, earlier: Recorded | None, world: World) -> Appointment:
        """The run of an earlier call, which comes to its record again; one that the script left goes on until then."""
        from esper.tolaria.replay import NullLog, recorded_world  # noqa: PLC0415 - it imports what trains

        outside = world.outside
        live = LiveWorld(Outside(NullLog(), outside.clock, outside.objects))
        if earlier is None:
            return Appointment(None, live, "", is_last=False)
        config = RunConfig.from_json(earlier.root.config_json)
        recorded = recorded_world(earlier, live, start=None, upto=earlier.facts[-1].sequence)
        return Appointment(config, recorded, earlier.run_id, is_last=False)


def run_again(script: Script, path: Path, appointments: Sequence[Appointment]) -> object:
    """Run the script at `path` in the worlds that are appointed; the exit code that it ended with, None without one."""
    with appoint(appointments), _started_as(script, path):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except RunOver:
            pass
        except SystemExit as error:
            return error.code
    return None


@contextlib.contextmanager
def _started_as(script: Script, path: Path) -> Iterator[None]:
    """Arguments, search path and folder as when the script was started; its own modules are forgotten afterwards."""
    arguments, search, modules, folder = sys.argv, list(sys.path), set(sys.modules), Path.cwd()
    sys.argv = [str(path), *script.arguments]
    sys.path.insert(0, str(path.parent))
    if Path(script.folder).is_dir():
        os.chdir(script.folder)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.argv, sys.path[:] = arguments, search
        home = path.parent
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and Path(file).is_relative_to(home):
                del sys.modules[name]
