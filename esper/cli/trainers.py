"""The trainers of one `esper run`: prepared side by side, begun together, ended without leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from esper.errors import InvalidInput
from esper.installation import python_module
from esper.tolaria.config import RunConfig
from esper.weatherlight.beginning import Plan
from esper.weatherlight.endpoint import run_folder
from esper.weatherlight.forkserver import Order, child_environment, request

LOG_NAME: Final = "trainers.log"
LIBRARIES: Final = (
    "torch",
    "torch._dynamo",  # torch imports it anyway, at the first step of any optimiser
    "esper.tolaria.dry_run",
    "esper.tolaria.session",
    "esper.tolaria.resume",
    "esper.tolaria.tasks",
    "esper.tolaria.train",
    "esper.weatherlight.trainer",
)
"""What the trainers of a command share: their fork server imports it."""
PREPARE_S: Final = 120.0
"""Loading a person's own data may take a while; the default task is prepared in three seconds."""
PRINTED_KEPT: Final = 1_000
"""Lines that a person's code prints and that wait to be shown."""
STOP_S: Final = 1.5
"""From SIGTERM, on which a trainer records that it was interrupted, to SIGKILL."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trainer ended: its result, or one line that says what went wrong.

    `steps` are when its first and its last step began, on the clock `time.monotonic`.
    `torch_import_s` is how long its fork server took to import torch and torch._dynamo, in seconds.
    """

    result: dict[str, Any] | None
    error: str = ""
    wrong_input: bool = False
    steps: tuple[float, float] | None = None
    torch_import_s: float = 0.0


class Trainer:
    """One trainer, as heard over its pipes. `name` is what people call its run."""

    def __init__(self, name: str, run_id: str, log: Path) -> None:
        self.name = name
        self.run_id = run_id
        self.outcome: Outcome | None = None
        self.prepared = threading.Event()
        """Set once it is ready to begin, and also when it ended before that."""
        self._log = log
        self._printed: deque[str] = deque(maxlen=PRINTED_KEPT)
        self._pid = 0
        self._control = -1
        self._messages = -1
        self._reading = threading.Thread(target=self._read, name=f"{name}-messages", daemon=True)

    def start(self, fork_server: socket.socket, data_dir: Path, config: RunConfig, plan: Plan) -> None:
        """Have it forked, and listen. It prepares, and waits for `begin`."""
        where = ("--data-dir", str(data_dir), "--run-id", self.run_id)
        order = Order(
            "esper-trainer",
            "esper.weatherlight.trainer:run",
            (*where, "--config", config.to_json(), "--plan", plan.to_json()),
        )
        stdin, self._control = os.pipe()
        self._messages, messages = os.pipe()
        with self._log.open("ab") as log, contextlib.suppress(OSError):  # it is gone: the end of the pipe tells
            request(fork_server, order, stdin=stdin, log=log.fileno(), messages=messages)
        os.close(stdin)
        os.close(messages)
        self._reading.start()

    def begin(self, brokers: str) -> None:
        """Let it train, on the log at this address."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its outcome says why
            os.write(self._control, brokers.encode() + b"\n")

    def ask_to_stop(self) -> None:
        """Have it record that it was interrupted, and end."""
        if self._pid and self._reading.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, given so much time; then `outcome` is set."""
        self._reading.join(max(0.0, timeout_s))
        return not self._reading.is_alive()

    def close(self) -> None:
        """Give back the pipe; a trainer that has not begun yet ends by this. A log that says nothing is removed."""
        os.close(self._control)
        if not _has_text(self._log):
            self._log.unlink(missing_ok=True)

    def printed(self) -> Iterator[str]:
        """The lines that its code has printed since the last call; of very many the last ones."""
        while self._printed:
            yield self._printed.popleft()

    def _read(self) -> None:
        """Take in its messages until it has ended; what it came to it says before. Runs on a thread of its own."""
        said: dict[str, Any] = {}
        with os.fdopen(self._messages) as messages:
            for line in messages:
                message = json.loads(line)
                if "printed" in message:
                    self._printed.append(message["printed"])
                    continue
                said.update(message)
                self._pid = said.get("pid", 0)
                if "result" in said or "error" in said:
                    self.outcome = outcome_of(self.name, said, self._log)
                if "prepared" in said:
                    self.prepared.set()
        if self.outcome is None:
            self.outcome = outcome_of(self.name, said, self._log)
        self.prepared.set()


def outcome_of(name: str, said: Mapping[str, Any], log: Path | None = None) -> Outcome:
    """How a run called `name` ended, by all that its trainer said; `log` is where that wrote a traceback."""
    has_log = log is not None and _has_text(log)
    if "result" in said:
        result = said["result"]
        failed = result["status"] == "failed"
        error = f"the {name} run failed: {result['reason']}" if failed else ""
        return Outcome(result, error, steps=said["steps"], torch_import_s=said["torch_import_s"])
    if "error" in said:
        see = f"; the traceback is in {log}" if said.get("traceback") and has_log else ""
        return Outcome(None, said["error"] + see, bool(said["wrong_input"]))
    code = said.get("exit", -signal.SIGKILL)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Outcome(None, f"the trainer of the {name} run {how}" + (f"; see {log}" if has_log else ""))


class Trainers:
    """All trainers of one command, forked by one fork server; leaving the context ends those that still run.

    The fork server starts with the object and imports torch meanwhile; `start` says what is to be trained.
    """

    def __init__(self, data_dir: Path) -> None:
        self.trainers: tuple[Trainer, ...] = ()
        self._data_dir = data_dir
        self._connection, theirs = socket.socketpair()
        with theirs, (run_folder(data_dir) / LOG_NAME).open("ab") as log:
            where = ("--fd", str(theirs.fileno()), "--data-dir", str(data_dir))
            command = python_module("esper.weatherlight.forkserver", *where, *LIBRARIES)
            self._fork_server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
                env=child_environment(),
            )

    def start(
        self, names: Mapping[str, str], runs: Mapping[str, RunConfig], plans: Mapping[str, Plan] = MappingProxyType({})
    ) -> None:
        """Have each run prepared. `runs` are configurations by run id, in the order of `names`.

        `plans` say how those begin that do not just start.
        """
        for run_id, config in runs.items():
            self.add(names[run_id], run_id, config, plans.get(run_id, Plan()))

    def add(self, name: str, run_id: str, config: RunConfig, plan: Plan) -> Trainer:
        """Have one more run prepared; it is begun as the others are, or by itself."""
        trainer = Trainer(name, run_id, self._log_of(run_id))
        self.trainers = (*self.trainers, trainer)
        trainer.start(self._connection, self._data_dir, config, plan)
        return trainer

    def remove(self, trainer: Trainer) -> None:
        """Have no more to do with one that has ended."""
        self.trainers = tuple(each for each in self.trainers if each is not trainer)
        trainer.close()

    def _log_of(self, run_id: str) -> Path:
        return run_folder(self._data_dir) / f"trainer-{run_id}.log"

    def wait_prepared(self, timeout_s: float) -> bool:
        """Whether every trainer is ready to begin, or over; raises InvalidInput where one found its input wrong."""
        deadline = time.monotonic() + timeout_s
        ready = all(trainer.prepared.wait(max(0.0, deadline - time.monotonic())) for trainer in self.trainers)
        for trainer in self.trainers:
            if trainer.outcome is not None and trainer.outcome.wrong_input:
                raise InvalidInput(trainer.outcome.error)
        return ready

    def begin(self, brokers: str) -> None:
        """Let all of them train, on the log at this address."""
        for trainer in self.trainers:
            trainer.begin(brokers)

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return all(trainer.outcome is not None for trainer in self.trainers)

    def ask_to_stop(self) -> None:
        """Have every trainer that still runs record that it was interrupted, and end."""
        if self._fork_server.poll() is None:
            self._fork_server.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End all of them: SIGTERM, and SIGKILL after a deadline that they share."""
        self.ask_to_stop()
        deadline = time.monotonic() + STOP_S
        if not all(trainer.wait(deadline - time.monotonic()) for trainer in self.trainers):
            self._fork_server.kill()  # and the kernel kills its children
        self._connection.close()
        if not self.trainers:
            self._fork_server.kill()  # it need not import torch for nothing
        self._fork_server.wait()
        for trainer in self.trainers:
            trainer.wait(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        for trainer in self.trainers:
            trainer.close()
        if not _has_text(log := run_folder(self._data_dir) / LOG_NAME):
            log.unlink(missing_ok=True)


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
