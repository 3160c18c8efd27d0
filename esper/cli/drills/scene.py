"""What a drill happens to: a scratch data folder, its processes, the run that trains in it, and who is told."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from esper.cli.drills.ear import Ear, Heard
from esper.cli.history import history_of
from esper.errors import EsperError
from esper.installation import python_module
from esper.nissa.alerts import BY_RULE
from esper.weatherlight import client
from projections.run_queries import EventReader
from streams.agents.scraped import scraped
from streams.settings import Settings

POLL_S: Final = 0.1
LOOK_S: Final = 0.5
PACE_S: Final = 0.2
"""A step of the run, as long as the drill goes on; at its end the run may hurry."""
PATIENCE_S: Final = 90.0
"""What a busy machine may take for anything that has no time of its own."""
EPOCHS: Final = 120


class Failed(EsperError):
    """Something did not come as a drill expects it."""


class Scene:
    """One drill's place. `scale` multiplies the times that alerts wait for, `pids` are an outside log's brokers."""

    def __init__(self, folder: Path, ear: Ear, scale: float, pids: Sequence[int] = ()) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ear = ear
        self.scale = scale
        self.pids = pids
        self.environment = {
            **os.environ,
            "ESPER_DATA": str(self.data),
            "ESPER_ALERT_WEBHOOK_URL": ear.url,
            "ESPER_ALERT_WINDOW_SCALE": f"{scale:g}",
            "ESPER_KEY": secrets.token_hex(32),
        }
        settings = Settings.load()
        if settings.brokers is not None:  # nothing of a drill is to lie among what is there
            prefix = f"{settings.topic_prefix}drill-{folder.name}-{secrets.token_hex(4)}."
            self.environment["ESPER_TOPIC_PREFIX"] = prefix
        self.bad_since: dict[str, float] = {}
        self.lines: list[str] = []
        self.said = ""
        self._run: subprocess.Popen[str] | None = None
        self._up: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._started: list[subprocess.Popen[str]] = []

    # --------------------------------------------------------------------------------------------------------- the run

    def begin(self, *arguments: str) -> None:
        """Start a run of the drill's task, and wait until it has completed an epoch."""
        source = (Path(__file__).with_name("host_task.py")).read_text(encoding="utf-8")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "task.py").write_text(source.replace("@FOLDER@", str(self.folder)), encoding="utf-8")
        self.pace(PACE_S * (1 + self.scale))
        self._serve()
        task = ("--task", f"{self.folder / 'task.py'}:task", "--epochs", str(EPOCHS), "--no-control", "--no-static")
        self._follow(self.start("run", *task, *arguments, "--json"))
        self.until(lambda: self._epoch() >= 1, "the run's first epoch", trains=True)

    def _serve(self) -> None:
        """Have the folder's processes run until they are ended: alerts are told of after the run, too."""
        self._up = self.start("up", "--json")
        if not _last_line(self._up):
            _, complained = self._up.communicate()
            raise Failed(f"the processes did not start: {complained.strip()}")

    def rekey(self, **environment: str) -> None:
        """The folder's processes and the commands have this environment from now on."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        self._up.communicate()
        self.environment |= environment
        self._serve()

    def pace(self, seconds: float) -> None:
        """How long a step takes from now on."""
        written = self.folder / "pace.new"
        written.write_text(f"{seconds:g}", encoding="utf-8")
        written.replace(self.folder / "pace")

    def spoil(self, how: str) -> None:
        """What seeds do wrong from now on."""
        written = self.folder / "break.new"
        written.write_text(how, encoding="utf-8")
        written.replace(self.folder / "break")

    def mend(self) -> None:
        """Seeds do nothing wrong any more."""
        (self.folder / "break").unlink(missing_ok=True)

    def epochs(self, number: int) -> None:
        """Wait until the run has completed so many epochs more."""
        to = self._epoch() + number
        self.until(lambda: self._epoch() >= to, f"epoch {to}", trains=True)

    def end(self) -> int:
        """Let the run hurry to its end; its exit code."""
        assert self._run is not None
        (self.folder / "pace").unlink(missing_ok=True)
        return self._ended(self._run)

    def tell(self, words: str, **environment: str) -> int:
        """`esper tell last WORDS`, in an environment that may be another; its exit code."""
        return self.run("tell", "last", words, "--json", **environment)

    def resume(self) -> int:
        """`esper resume last`, to the end; its exit code."""
        return self.run("resume", "last", "--json")

    def interrupt(self) -> int:
        """Ctrl-C for the run; its exit code."""
        assert self._run is not None
        self._run.send_signal(signal.SIGINT)
        return self._ended(self._run)

    def go_on(self) -> None:
        """Have the run that was interrupted go on, and wait until it has completed an epoch more."""
        to = self._epoch() + 1
        self._follow(self.start("resume", "last", "--json"))
        self.until(lambda: self._epoch() >= to, f"epoch {to}", trains=True)

    def _follow(self, run: subprocess.Popen[str]) -> None:
        self._run = run
        self._reader = threading.Thread(target=self._read, args=(run,), daemon=True)
        self._reader.start()

    def _epoch(self) -> int:
        told = [line.partition("epoch ")[2].partition("/")[0] for line in self.lines if "epoch " in line]
        return max((int(each) for each in told if each.isdecimal()), default=0)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.lines.append(line.rstrip())

    def _ended(self, run: subprocess.Popen[str]) -> int:
        assert run.stdout is not None
        assert self._reader is not None
        run.stdout.read()
        self._reader.join()
        return run.wait()

    # ------------------------------------------------------------------------------------------------------- processes

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """An `esper` command on the scratch folder, to be waited for or ended."""
        return self.process("esper.cli", *arguments, "--data-dir", str(self.data), **environment)

    def process(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """One of our modules as a process; `close` ends it where nobody else has."""
        made = subprocess.Popen(
            python_module(module, *arguments),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(made)
        return made

    def run(self, *arguments: str, **environment: str) -> int:
        """An `esper` command to its end; its exit code."""
        process = self.start(*arguments, **environment)
        said, complained = process.communicate()
        self.said = f"{said.strip()} {complained.strip()}".strip()
        return process.returncode

    def pid(self, name: str) -> int:
        """The process of this name; raises Failed where it does not run."""
        status = client.status(self.data)
        found = [each.pid for each in (status.services if status is not None else ()) if each.name == name and each.pid]
        if not found:
            raise Failed(f"{name} does not run")
        return int(found[0] or 0)

    @property
    def brokers(self) -> str:
        """The address of the log."""
        status = client.status(self.data)
        if status is None:
            raise Failed("nothing of the scratch folder runs")
        return status.brokers

    def broker_pids(self) -> Sequence[int]:
        """The processes that the log is."""
        return self.pids or [self.pid("broker")]

    def close(self) -> None:
        """End what still runs."""
        for each in reversed(self._started):
            if each.poll() is None:
                each.terminate()
            try:
                each.wait(10.0)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        if self._reader is not None:
            self._reader.join()
        for each in self._started:
            for pipe in (each.stdout, each.stderr):
                if pipe is not None:
                    pipe.close()

    # --------------------------------------------------------------------------------------------------------- waiting

    def until(
        self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S, *, trains: bool = False
    ) -> Any:
        """What `condition` says once it says something true.

        Raises Failed where that does not come in time, or where only a run that `trains` can bring it, and it is over.
        """
        deadline = time.monotonic() + timeout_s
        while not (said := condition()):
            if time.monotonic() > deadline:
                raise Failed(f"{what} did not come within {timeout_s:.0f} s")
            if trains and self._run is not None and self._run.poll() is not None:
                raise Failed(f"the run ended before {what}: {self.lines[-1] if self.lines else 'it said nothing'}")
            time.sleep(POLL_S)
        return said

    def wait_for(self, rule: str, *, active: bool) -> Heard:
        """Wait until people are told of an alert that fires or clears; what it watches is looked at meanwhile."""
        watched = BY_RULE[rule]
        window_s = watched.window_s + (watched.threshold if rule == "archive_lag" else 0.0)

        looked_at = 0.0

        def told() -> Heard | None:
            nonlocal looked_at
            looks = active and time.monotonic() - looked_at > LOOK_S
            looked_at = time.monotonic() if looks else looked_at
            for sample in scraped(self.data / "run") if looks else ():
                if sample.name == watched.metric and not watched.good(sample.value):
                    self.bad_since.setdefault(rule, time.time())
                elif sample.name == watched.metric:
                    self.bad_since.pop(rule, None)
            return next(iter(self.ear.heard(rule, active=active)), None)

        verb = "fires" if active else "clears"
        found: Heard = self.until(told, f"that {rule} {verb}", PATIENCE_S + window_s * self.scale)
        return found

    def late_s(self, heard: Heard) -> float | None:
        """How long after its rule's condition held an alert was made; None where that is not known.

        By the event that caused it, else by when what it watches went bad, as seen from outside.
        """
        rule, since = BY_RULE[heard.rule], self.bad_since.get(heard.rule)
        if since is not None:
            return max(
                0.0, heard.made_at_s - since - (rule.window_s * self.scale if rule.condition == "sustained" else 0)
            )
        with history_of(self.data) as history:
            events = {event.event_id: event for event in EventReader(history, heard.run).new()}
        alert = events.get(bytes.fromhex(heard.alert_id))
        cause = events.get(alert.causation_id) if alert is not None else None
        return None if alert is None or cause is None else (alert.recorded_at_ns - cause.recorded_at_ns) / 1e9


def _last_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
