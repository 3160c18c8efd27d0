"""The fork server: what it forks has its descriptors alone, tells why it ended, and outlives nobody."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.installation import python_module
from esper.weatherlight.forkserver import Order, child_environment, request


@pytest.fixture
def forked(tmp_path: Path, fork_server: socket.socket) -> Callable[..., Iterator[dict[str, Any]]]:
    """What is told of a process with this body, one message after the other; its log is `tmp_path / "log"`."""

    def fork(body: str, *arguments: str, inherit: tuple[int, ...] = ()) -> Iterator[dict[str, Any]]:
        name = f"program_{time.monotonic_ns()}"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        text = f"import json, os, signal, sys, threading, time\ndef run(arguments, messages):\n{lines}"
        (tmp_path / f"{name}.py").write_text(text)
        read, write = os.pipe()
        order = Order("esper-test", f"{name}:run", arguments)
        with (tmp_path / "log").open("ab") as log, Path(os.devnull).open("rb") as null:
            request(fork_server, order, stdin=null.fileno(), log=log.fileno(), messages=write, inherit=inherit)
        os.close(write)
        with os.fdopen(read) as messages:
            for line in messages:
                yield json.loads(line)

    return fork


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_is_told_of_from_its_pid_to_its_exit_code(forked):
    first, said, last = forked("messages.write(json.dumps([os.getpid(), *arguments]) + '\\n')\nreturn 3", "a", "b")
    assert said == [first["pid"], "a", "b"]
    assert last == {"exit": 3}


def test_the_reason_is_the_line_of_the_exception_and_never_the_last_line_of_stderr(forked, tmp_path):
    body = "try:\n    raise ValueError('the cause')\nfinally:\n    sys.stderr.write('<unclosed producer at 0x7f>\\n')"
    _, error, last = forked(body)
    assert error == {"error": "ValueError: the cause"}
    assert last == {"exit": 1}
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_foreseen_error_is_its_message_without_a_traceback(forked, tmp_path):
    body = "from esper.errors import LogUnavailable\nraise LogUnavailable('the disk\\nis full')"
    assert list(forked(body))[1:] == [{"error": "the disk is full"}, {"exit": 1}]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_process_that_is_killed_says_by_what(forked):
    assert list(forked("os.kill(os.getpid(), signal.SIGKILL)"))[-1] == {"exit": -signal.SIGKILL}


def test_it_has_the_descriptors_that_were_given_and_no_other(forked):
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        body = "messages.write(json.dumps(sorted(int(n) for n in os.listdir('/proc/self/fd'))) + '\\n')"
        _, found, _ = forked(body, inherit=(inherited.fileno(),))
    assert found[:5] == [0, 1, 2, 3, 4]
    assert len(found) == 6  # one is the listing itself


def test_it_begins_with_one_thread_a_session_of_its_own_and_signals_as_they_were(forked):
    body = (
        "handlers = [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)]\n"
        "mask = len(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "name = open('/proc/self/comm').read().strip()\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "messages.write(json.dumps([threads, os.getsid(0) == os.getpid(), handlers, mask, name]) + '\\n')"
    )
    assert list(forked(body))[1] == [1, True, [True, True], 0, "esper-test"]


def test_a_large_order_arrives_whole(forked):
    text = "x" * 1_000_000
    assert list(forked("messages.write(json.dumps(len(arguments[0])) + '\\n')", text))[1] == len(text)


def test_the_services_and_the_trainers_libraries_start_no_thread(tmp_path):
    """Else a lock that such a thread holds at a fork stays locked for ever in the process that was forked."""
    from esper.cli.trainers import LIBRARIES as OF_TRAINERS
    from esper.weatherlight.__main__ import LIBRARIES
    from esper.weatherlight.supervisor import SERVICES

    for modules in ((*SERVICES.values(), *LIBRARIES), OF_TRAINERS):
        program = "import os, sys\nfrom esper.weatherlight.forkserver import preload\npreload(sys.argv[1:])\n"
        program += "print(len(os.listdir('/proc/self/task')), 'torch' in sys.modules)"
        command = [sys.executable, "-c", program, *modules]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", str(modules is OF_TRAINERS)]


PARENT = """
import json, os, socket, subprocess, sys, time
from pathlib import Path
from esper.installation import python_module
from esper.weatherlight.forkserver import Order, child_environment, request
ours, theirs = socket.socketpair()
command = python_module("esper.weatherlight.forkserver", "--fd", str(theirs.fileno()))
server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=child_environment())
read, write = os.pipe()
null = os.open(os.devnull, os.O_RDWR)
request(ours, Order("waiter", "sleeping:run"), stdin=null, log=null, messages=write)
pid = json.loads(os.fdopen(read).readline())["pid"]
print(server.pid, pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("killed", ["client", "fork server"])
def test_what_is_forked_dies_with_its_fork_server_and_that_with_its_client(tmp_path, killed):
    (tmp_path / "sleeping.py").write_text("import time\ndef run(arguments, messages):\n    time.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment, text=True) as client:
        server, process = map(int, client.stdout.readline().split())
        assert is_running(server)
        assert is_running(process)
        os.kill(client.pid if killed == "client" else server, signal.SIGKILL)
        wait_until_gone(process)
        client.kill()


def test_a_fork_server_whose_parent_is_gone_already_does_not_start():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            python_module("esper.weatherlight.forkserver", "--fd", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            env={**os.environ, "ESPER_PARENT_PID": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
            check=False,
        )
    assert done.returncode == 1
