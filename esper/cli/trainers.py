"""The trainer processes that `esper run` starts: prepared side by side, begun together, ended without leftovers."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig
from esper.weatherlight.endpoint import run_folder
from esper.weatherlight.guard import child_environment, guarded

STOP_S: Final = 1.5
"""From SIGTERM, on which a trainer records that it was interrupted, to SIGKILL."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trainer ended: its result, or one line that says what went wrong."""

    result: dict[str, Any] | None
    error: str = ""
    wrong_input: bool = False


class Trainer:
    """One trainer process. It prepares at once and trains when `begin` is called."""

    def __init__(self, name: str, data_dir: Path, run_id: str, config: RunConfig) -> None:
        self.name = name
        self.run_id = run_id
        self.outcome: Outcome | None = None
        self.prepared = threading.Event()
        """Set once it is ready to begin, and also when it ended before that."""
        self.log_path = run_folder(data_dir) / f"trainer-{run_id}.log"
        arguments = (
            "--data-dir",
            str(data_dir),
            "--run-id",
            run_id,
            "--config",
            config.to_json(),
        )
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                guarded("esper.weatherlight.trainer", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
                env=child_environment(),
            )
        self._reading = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)
        self._reading.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def done(self) -> bool:
        """Whether it has ended; then `outcome` is set."""
        return self.outcome is not None

    def begin(self, brokers: str) -> None:
        """Let it train, on the log at this address."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(brokers.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended, and its outcome says why

    def stop(self) -> None:
        """Ask it to record an interruption and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # one that has not begun yet ends by this

    def end(self, deadline: float) -> None:
        """Wait for its end until `deadline` of the monotonic clock, then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reading.join()

    def _read(self) -> None:
        """Take in its messages until it has ended. Runs on a thread of its own."""
        said: dict[str, Any] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "prepared" in said:
                self.prepared.set()
        self._process.stdout.close()
        self.outcome = self._outcome(self._process.wait(), said)
        self.prepared.set()

    def _outcome(self, code: int, last: dict[str, Any]) -> Outcome:
        if "result" in last and code == 0:
            result = last["result"]
            failed = result["status"] == "failed"
            return Outcome(result, f"the {self.name} run failed: {result['reason']}" if failed else "")
        if "error" in last:
            return Outcome(None, last["error"], bool(last["wrong_input"]))
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(None, f"the {self.name} run's trainer (pid {self.pid}) {how}; see {self.log_path}")


class Trainers:
    """All trainers of one command; leaving the context ends those that still run."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = tuple(trainers)

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
        return all(trainer.done for trainer in self.trainers)

    def stop(self) -> None:
        """End all of them: SIGTERM, and SIGKILL after a deadline that they share."""
        for trainer in self.trainers:
            trainer.stop()
        deadline = time.monotonic() + STOP_S
        for trainer in self.trainers:
            trainer.end(deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
