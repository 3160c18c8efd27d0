"""The whole system as a person starts it, in a data and configuration folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from esper.cli import WRONG_INPUT
from esper.cli.app import dispatch
from streams.settings import Settings
from tests.forked import Forks, everybodys

ROOT = Path(__file__).parents[2]
SLOW = f"{Path(__file__).with_name('slow_task.py')}:task"
"""The task of a run that must not be over before the test has done something to it; see the fixture `go_on`."""
READING = ("diff", "events", "replay", "runs", "sql", "state", "why")
READING_BLUEPRINTS = ("history", "list", "show")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on Kafka back in their order after the shuffling: whoever kills a broker comes last.

    Otherwise brokers are started again, and what runs beside the quick tests is waited for.
    """
    places = [number for number, item in enumerate(items) if item.path.name == "test_kafka.py"]
    ordered = sorted((items[number] for number in places), key=lambda item: item.location[1] or 0)
    for number, item in zip(places, ordered, strict=True):
        items[number] = item


@dataclass(frozen=True)
class Esper:
    """The command, run with a data folder of its own."""

    data_dir: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list, compare=False, repr=False)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the folder but the one that asks: each of Esper's names it, or a place in it."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            names = [Path(word) for word in process.info["cmdline"] or ()]
            running = process.info["status"] != psutil.STATUS_ZOMBIE
            if any(self.data_dir in (name, *name.parents) for name in names) and running and process.pid != os.getpid():
                found.append(process)
        return found

    def named(self, name: str) -> list[psutil.Process]:
        """The living processes of the folder of this name, such as `broker`, as `ps -e` shows it."""
        return [each for each in self.processes() if each.name() == f"esper-{name}"]

    def find(self, name: str) -> psutil.Process:
        """The one of them that there is."""
        (process,) = self.named(name)
        return process

    @staticmethod
    def wait_until(condition: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.02) -> Any:
        """What `condition` says once it says something true; fails the test where it never does."""
        deadline = time.monotonic() + timeout_s
        while not (said := condition()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s"
            time.sleep(every_s)
        return said

    def command(self, *arguments: str) -> list[str]:
        """The command line; the folder is named on it, so that its process is found by that."""
        return [sys.executable, "-m", "esper.cli", *arguments, "--data-dir", str(self.data_dir)]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and go on."""
        process = subprocess.Popen(
            self.command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, code: int = 0, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which must come with exit code `code`; in this process where it only reads or refuses."""
        if code == WRONG_INPUT or _reads(*arguments):
            done = self._here(*arguments)
        else:
            process = self.start(*arguments)
            stdout, stderr = process.communicate(timeout=timeout_s)
            done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def _here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same without starting Python and importing everything once more: most of such a command's second."""
        command = [*arguments, "--data-dir", str(self.data_dir)]
        with (
            contextlib.redirect_stdout(io.StringIO()) as stdout,
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            code = dispatch(command)
        return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())

    def json(self, *arguments: str) -> Any:
        """The JSON in the last line of its stdout."""
        return json.loads(self(*arguments, "--json").stdout.splitlines()[-1])

    def logs(self) -> str:
        """Everything its processes logged, for a test that fails."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in (self.data_dir / "run").glob("*.log"))


def _reads(*arguments: str) -> bool:
    if arguments[0] == "blueprints":
        return arguments[1] in READING_BLUEPRINTS
    return arguments[0] in READING and "--follow" not in arguments


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A configuration folder of its own, for the signing key, and nothing set from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in Settings.model_fields:
            patch.delenv(f"ESPER_{name.upper()}", raising=False)
        yield


def _kill_what_is_left(made: Esper) -> None:
    left = made.processes()
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    for started in made.started:  # of a test that failed: its pipes would be the next test's warnings
        started.kill()
        started.wait()
        for pipe in (started.stdout, started.stderr):
            if pipe is not None:
                pipe.close()
    assert not left, f"left running: {left}"


@pytest.fixture
def go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: while it is not there, runs of `SLOW` that begin within the test get ever slower."""
    file = tmp_path / "go-on"
    monkeypatch.setenv("ESPER_TESTS_GO_ON", str(file))
    return file


@pytest.fixture(scope="session")
def forks(_own_environment: None) -> Forks:
    """Processes that have torch already when they begin."""
    return everybodys()


@pytest.fixture
def esper(tmp_path: Path) -> Iterator[Esper]:
    """The command; whatever a test leaves running is ended by process id, and fails the test."""
    made = Esper(tmp_path / "data")
    yield made
    _kill_what_is_left(made)


@pytest.fixture(scope="module")
def shared_esper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Esper]:
    """The same with one data folder for all tests of a module."""
    made = Esper(tmp_path_factory.mktemp("shared") / "data")
    yield made
    _kill_what_is_left(made)
