"""The fork server: a process that imports libraries once and forks the processes that use them.

    python -P -m esper.weatherlight.forkserver --fd N [--data-dir D] MODULE ...

Forked processes share what the imports left in memory and begin within hundredths of a second. There are two: one
without torch for the services of a data folder (`esper.weatherlight.__main__`), and one with it for the trainers of a
command (`esper.cli.trainers`). A fork server has one thread, opens no database, touches no GPU and runs no event loop,
so that every process that it forks begins as one of its own would.

It takes orders from a Unix socket, with the file descriptors of the process to be (`request`). All that becomes of the
process is told over its pipe `messages`, one JSON object a line: `{"pid": …}`, then what the process says, such as
`{"ready": true}`, then `{"error": …}`, the exception's own line, where it failed, and at last, from the fork server,
`{"exit": code}`, negative for a signal.

A process dies with its fork server, and the fork server with who started it (prctl(2), PR_SET_PDEATHSIG), so that
`kill -9` of any of them leaves nothing behind. Linux only; elsewhere they notice their parent's end by themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from esper.errors import EsperError

Target = Callable[[Sequence[str], TextIO], int | None]
"""What a process runs: it takes its arguments and its `messages`, and returns its exit code, None for 0."""

FIRST_INHERITED: Final = 4
"""The number of the first inherited file descriptor in the process: 0 to 3 are stdin, stdout, stderr and `messages`."""
PARENT_VARIABLE: Final = "ESPER_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_READ_BYTES: Final = 65_536
_MOST_DESCRIPTORS: Final = 64


@dataclass(frozen=True, slots=True)
class Order:
    """A process to fork. `target` is the `module:function` that it runs, `name` what `ps` and `top` call it.

    `niceness` is what it yields to others: 0 nothing, 19 whatever they want.
    """

    name: str
    target: str
    arguments: tuple[str, ...] = ()
    niceness: int = 0


def request(
    connection: socket.socket, order: Order, *, stdin: int, log: int, messages: int, inherit: Sequence[int] = ()
) -> None:
    """Ask the fork server behind `connection` for a process; raises OSError where it is gone.

    `log` becomes stdout and stderr. The caller keeps its copies of the descriptors, and closes those it does not use.
    """
    descriptors = [stdin, log, messages, *inherit]
    text = json.dumps({"order": asdict(order), "descriptors": len(descriptors)}).encode() + b"\n"
    sent = socket.send_fds(connection, [text], descriptors)
    connection.sendall(text[sent:])


def child_environment() -> dict[str, str]:
    """The environment of a fork server: one computing thread each, few malloc arenas, no thread of a library's own."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's import would start one otherwise
        PARENT_VARIABLE: str(os.getpid()),
    }


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends; exits at once where process `parent` is gone already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl; then no signal will ever come
        os._exit(1)


def call_process(name: str) -> None:
    """What `ps -e` and `top` call this process, 15 characters at most; a fork has its parent's command line."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


preloaded: Final[dict[str, float]] = {}
"""What `preload` imported in this process or in the fork server that forked it, and how many seconds each took."""


def preload(modules: Sequence[str]) -> None:
    """Import `modules`, and have the collector leave alone what is there, so that its pages stay shared."""
    gc.disable()  # a collection finds next to nothing: among the imports it costs a tenth of them, after torch 0.2 s
    for module in modules:
        began = time.monotonic()
        import_module(module)
        preloaded[module] = time.monotonic() - began
    gc.freeze()
    gc.enable()


class ForkServer:
    """Forks what is ordered over `connection`, and tells of each process's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._messages: dict[int, int] = {}
        self._main: int | None = None
        self._text = b""
        self._descriptors: list[int] = []

    def serve(self, main: int | None = None) -> int:
        """Serve until the client has hung up and all processes have ended, or until `main` has: its exit code.

        SIGTERM is passed on, to `main` where there is one and otherwise to all.
        """
        self._main = main
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._forward)
        listening = True
        while listening or self._messages:
            sources: list[Any] = [woken, self._connection] if listening else [woken]
            readable, _, _ = select.select(sources, [], [])
            if woken in readable:
                os.read(woken, 4096)
                ended = self._reap()
                if main in ended:
                    return ended[main]
            if self._connection in readable:
                listening = self._take_orders()
        return 0

    def fork(self, order: Order, descriptors: Sequence[int]) -> int:
        """Fork a process with `descriptors` for stdin, log and messages, then what it inherits; its pid."""
        messages = os.dup(descriptors[2])
        parent = os.getpid()
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # else one for the child could meet our handler in it
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            _become(order, descriptors, parent)
        self._messages[pid] = messages
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return pid

    def _take_orders(self) -> bool:
        """Fork what is ordered; False where the client has hung up."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self._connection, _READ_BYTES, _MOST_DESCRIPTORS)
        except ConnectionError:
            return False
        *lines, self._text = (self._text + text).split(b"\n")
        self._descriptors += descriptors
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            count = said["descriptors"]
            given, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            order = said["order"]
            self.fork(Order(**{**order, "arguments": tuple(order["arguments"])}), given)
            for descriptor in given:
                os.close(descriptor)
        return bool(text)

    def _reap(self) -> dict[int | None, int]:
        """Take the exit codes of processes that have ended, and tell them."""
        ended: dict[int | None, int] = {}
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, code = found[0], os.waitstatus_to_exitcode(found[1])
                ended[pid] = code
                messages = self._messages.pop(pid)
                _tell(messages, {"exit": code})
                os.close(messages)
        return ended

    def _forward(self, number: int, _frame: object) -> None:
        for pid in [self._main] if self._main is not None else list(self._messages):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _become(order: Order, descriptors: Sequence[int], parent: int) -> NoReturn:
    """Turn this fork into the process of `order`; it never returns to what its parent was doing."""
    code = 1
    try:
        die_with_parent(parent)
        _tell(descriptors[2], {"pid": os.getpid()})
        os.setsid()
        _be_nice(order.niceness)
        call_process(order.name)
        _lay_out([descriptors[0], descriptors[1], descriptors[1], *descriptors[2:]])
        module, _, function = order.target.partition(":")
        with os.fdopen(FIRST_INHERITED - 1, "w", buffering=1) as messages:
            code = _run(getattr(import_module(module), function), order, messages)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _be_nice(niceness: int) -> None:
    """Yield to others.

    Linux may group processes by session and share the cores among the groups; then the niceness of the group counts,
    and every process has a session of its own. A process of the policy SCHED_BATCH takes no core from one that runs
    when it wakes, which is what a decision suffered from most.
    """
    if not niceness:
        return
    os.nice(niceness)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no such groups, or forbidden: then the niceness alone must do
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _run(target: Target, order: Order, messages: TextIO) -> int:
    """The exit code of `target`; the line of what it raised goes to `messages`, and its traceback to the log."""
    try:
        return target(order.arguments, messages) or 0
    except EsperError as error:
        line = str(error)
        with contextlib.suppress(OSError):  # its log may lie on the full disk that ended it
            sys.stderr.write(f"{order.name}: {line}\n")
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw, its line is the reason of the end
        line = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # as above
            traceback.print_exc()
    with contextlib.suppress(OSError):
        messages.write(json.dumps({"error": " ".join(line.split())}) + "\n")
    return 1


def _lay_out(descriptors: Sequence[int]) -> None:
    """Make `descriptors` this process's 0, 1, 2 …, and close every other, so that no pipe of a sibling stays open."""
    beyond = 2 * len(descriptors) + max(descriptors)
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, beyond) for descriptor in descriptors]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _tell(messages: int, message: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # who listened has gone
        os.write(messages, json.dumps(message).encode() + b"\n")


def main() -> NoReturn:
    """Import the modules and serve; the process dies with who started it."""
    parser = argparse.ArgumentParser(prog="python -m esper.weatherlight.forkserver")
    parser.add_argument("--fd", type=int, required=True, help="a Unix socket over which orders come")
    parser.add_argument("--data-dir", help="whose processes they are, for who lists processes")
    parser.add_argument("modules", nargs="*", help="what the processes share")
    options = parser.parse_args()
    die_with_parent(int(os.environ.pop(PARENT_VARIABLE)))
    call_process("esper-fork")
    preload(options.modules)
    os._exit(ForkServer(socket.socket(fileno=options.fd)).serve())  # to take torch down tidily takes 0.2 s


if __name__ == "__main__":
    # Under its own name: what it forks looks for `preloaded` there.
    from esper.weatherlight import forkserver  # noqa: PLW0406

    forkserver.main()
