"""Starting the broker as a process, stopping it, and finding the one of a data folder."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper.errors import LogUnavailable
from esper.installation import python_module
from streams.access import know

START_TIMEOUT_S: Final = 30.0
"""Recovery after a crash checks at most one segment per partition."""
STOP_TIMEOUT_S: Final = 5.0
NAME: Final = "log.address"


@dataclass(frozen=True, slots=True)
class BrokerProcess:
    """A broker that is ready: `address` is what Kafka clients take as bootstrap server."""

    port: int
    pid: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> int:
        """Stops it cleanly, or kills it after five seconds; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._close()

    def kill(self) -> int:
        """Kills it as a crash would (SIGKILL); its exit status."""
        self.process.kill()
        try:
            return self.process.wait()
        finally:
            self._close()

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_broker(data_dir: Path, *, fd: int | None = None, port: int = 0, anonymous: bool = False) -> BrokerProcess:
    """Starts a broker on `data_dir` and waits until it serves.

    Args:
        data_dir: the data folder; the log is in `log/`, what the broker says in `log/broker.log`.
        fd: a listening socket for it to take over, which the caller keeps.
        port: a port on loopback, 0 for a free one; not with `fd`.
        anonymous: it lets in clients that do not name its secret. Those of this process do, unasked.

    The broker dies with the thread that calls this: call it from one that lives as long as the broker should.

    Raises:
        LogUnavailable: it did not start; the message is its own.
    """
    where = ["--port", str(port)] if fd is None else ["--fd", str(fd)]
    where += ["--anonymous"] if anonymous else []
    said = data_dir / "log" / "broker.log"
    try:
        said.parent.mkdir(parents=True, exist_ok=True)
        if said.is_symlink() or (said.exists() and not said.is_file()):
            raise LogUnavailable(f"{said} is no plain file: move it away")
        stderr = said.open("ab")
    except OSError as error:
        raise LogUnavailable(f"{said.parent}: {error.strerror}: choose a folder that can be written") from error
    with stderr:
        process = subprocess.Popen(
            python_module("streams.broker", "--data-dir", str(data_dir), *where),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=() if fd is None else (fd,),
            text=True,
        )
    first = json.loads(_first_line(process) or "{}")
    if "ready" not in first:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        raise LogUnavailable(first.get("error") or f"the broker did not start; see {said}")
    broker = BrokerProcess(first["port"], first["pid"], process)
    know(broker.address, data_dir)
    return broker


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
    return process.stdout.readline() if ready else ""


def announce_address(data_dir: Path, address: str) -> None:
    """Say that the log of `data_dir` listens at `address`."""
    folder = data_dir / "run"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NAME}.{os.getpid()}"
    temporary.write_text(address + "\n", encoding="ascii")
    temporary.replace(folder / NAME)


def withdraw_address(data_dir: Path) -> None:
    """Say that it no longer does; a log that was killed cannot, so an address may lead nowhere."""
    (data_dir / "run" / NAME).unlink(missing_ok=True)


def announced_address(data_dir: Path) -> str | None:
    """HOST:PORT of the embedded log, None where none runs."""
    try:
        return (data_dir / "run" / NAME).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
