"""A recorded script, run again in this process under a world that was appointed for it."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tolaria.appointed import RunOver, appoint
from esper.tolaria.config import RunConfig
from esper.tolaria.script import changed, lay_out
from esper.tolaria.session import RunResult
from esper.tolaria.world import World


@dataclass(frozen=True, slots=True)
class RecordedScript:
    """A person's script as a run recorded it."""

    name: str
    script: Script
    objects: ObjectStore

    def fingerprint(self) -> str:
        """Empty: the script reads its samples itself, and what it comes to is compared step by step."""
        return ""

    def train(self, config: RunConfig, world: World, *, run_id: str) -> RunResult:
        """Run the script until the run of its `esper.grow` is over; returns what came of that.

        The file where it lay is run if it and its neighbours are what they were, so that it finds its data beside it;
        otherwise a copy of what was recorded. It gets the recorded arguments and folder. Modules of its own are
        imported anew, and whatever the run raises is raised on.
        """
        with tempfile.TemporaryDirectory(prefix="esper-script-") as folder:
            path = lay_out(self.script, self.objects, Path(folder)) if changed(self.script) else Path(self.script.path)
            with appoint(config, world, run_id) as appointment, _started_as(self.script, path):
                try:
                    runpy.run_path(str(path), run_name="__main__")
                except RunOver:
                    pass
                except SystemExit as error:
                    if appointment.result is None and appointment.error is None:
                        raise InvalidInput(
                            f"script {self.script.path} ended with exit code {error.code} before its run was over"
                        ) from error
        if appointment.error is not None:
            raise appointment.error
        if appointment.result is None:
            raise InvalidInput(f"script {self.script.path} ended without a run of esper.grow that was over")
        return appointment.result


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
