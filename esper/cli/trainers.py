"""The trainers of one `esper run`: prepared side by side, begun together, ended without leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig
from esper.weatherlight.beginning import Plan
from esper.weatherlight.forkserver import child_environment, guarded
from esper.weatherlight.trainer_forkserver import Order, log_path, order_text

STOP_S: Final = 1.5
"""From SIGTERM, on which a trainer records that it was interrupted, to SIGKILL."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trainer ended: its result, or one line that says what went wrong."""

    result: dict[str, Any] | None
    error: str = ""
    wrong_input: bool = False


class Trainer:
    """One trainer, as heard over its pipes. `name` is what people call its run."""

    def __init__(self, name: str, run_id: str, log: Path) -> None:
        self.name = name
        self.run_id = run_id
        self.outcome: Outcome | None = None
        self.prepared = threading.Event()
        """Set once it is ready to begin, and also when it ended before that."""
        self._log = log
        self.control_fd, self._control = os.pipe()
        self._messages, self.messages_fd = os.pipe()
        self._reading = threading.Thread(target=self._read, name=f"{name}-messages", daemon=True)

    def started(self) -> None:
        """Its process has its ends of the pipes: listen."""
        os.close(self.control_fd)
        os.close(self.messages_fd)
        self._reading.start()

    def begin(self, brokers: str) -> None:
        """Let it train, on the log at this address."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its outcome says why
            os.write(self._control, brokers.encode() + b"\n")

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, given so much time; then `outcome` is set."""
        self._reading.join(max(0.0, timeout_s))
        return not self._reading.is_alive()

    def close(self) -> None:
        """Give back the pipe; a trainer that has not begun yet ends by this. A log that says nothing is removed."""
        os.close(self._control)
        if not _has_text(self._log):
            self._log.unlink(missing_ok=True)

    def _read(self) -> None:
        """Take in its messages until it has ended. Runs on a thread of its own."""
        said: dict[str, Any] = {}
        with os.fdopen(self._messages) as messages:
            for line in messages:
                said.update(json.loads(line))
                if "prepared" in said:
                    self.prepared.set()
        self.outcome = self._outcome(said)
        self.prepared.set()

    def _outcome(self, said: Mapping[str, Any]) -> Outcome:
        if "result" in said:
            result = said["result"]
            failed = result["status"] == "failed"
            return Outcome(result, f"the {self.name} run failed: {result['reason']}" if failed else "")
        if "error" in said:
            return Outcome(None, said["error"], bool(said["wrong_input"]))
        code = said.get("exit", -signal.SIGKILL)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        see = f"; see {self._log}" if _has_text(self._log) else ""
        return Outcome(None, f"the trainer of the {self.name} run {how}{see}")


class Trainers:
    """All trainers of one command, forked by one nursery; leaving the context ends those that still run.

    `runs` are configurations by run id, in the order of `names`; `plans` say how those begin that do not just start.
    """

    def __init__(
        self,
        data_dir: Path,
        names: Mapping[str, str],
        runs: Mapping[str, RunConfig],
        plans: Mapping[str, Plan] = MappingProxyType({}),
    ) -> None:
        self.trainers = tuple(Trainer(names[run_id], run_id, log_path(data_dir, run_id)) for run_id in runs)
        orders = [
            Order(
                each.run_id,
                config.to_json(),
                plans.get(each.run_id, Plan()).to_json(),
                each.control_fd,
                each.messages_fd,
            )
            for each, config in zip(self.trainers, runs.values(), strict=True)
        ]
        arguments = ("--data-dir", str(data_dir), "--trainers", order_text(orders))
        with log_path(data_dir, self.trainers[0].run_id).open("ab") as log:
            self._nursery = subprocess.Popen(
                guarded("esper.weatherlight.trainer_forkserver", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd for order in orders for fd in (order.control_fd, order.messages_fd)],
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
                env=child_environment(),
            )
        for trainer in self.trainers:
            trainer.started()

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
        if self._nursery.poll() is None:
            self._nursery.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End all of them: SIGTERM, and SIGKILL after a deadline that they share."""
        self.ask_to_stop()
        deadline = time.monotonic() + STOP_S
        if not all(trainer.wait(deadline - time.monotonic()) for trainer in self.trainers):
            self._nursery.kill()  # and the kernel kills its children
        self._nursery.wait()
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


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
