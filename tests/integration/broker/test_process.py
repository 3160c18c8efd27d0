"""The broker as a process: how it starts, how it ends, and what it says when it cannot."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper.errors import LogUnavailable
from streams.broker.launch import start_broker

pytestmark = pytest.mark.cold

COMMAND = [sys.executable, "-m", "streams.broker"]


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False, **options)


def test_it_says_where_it_is_and_ends_cleanly(tmp_path):
    process = subprocess.Popen([*COMMAND, "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    ready = json.loads(process.stdout.readline())
    assert ready.keys() == {"ready", "host", "port", "pid", "health_port"}
    assert (ready["host"], ready["pid"]) == ("127.0.0.1", process.pid)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=10)
    assert (rest, process.returncode) == ("", 0)
    assert (tmp_path / "log" / "boot").read_text() == "clean"


def test_two_brokers_do_not_share_a_folder(host, broker):
    with pytest.raises(LogUnavailable, match=rf"log is in use by process {broker.pid}: stop it or choose another"):
        start_broker(host.data_dir, anonymous=True)


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--data-dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["error"] in done.stderr
    assert (
        done.stderr == f"esper broker: port {port} on 127.0.0.1: Address already in use: choose another, or 0 for any\n"
    )


def test_only_loopback_is_served(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        fd = everywhere.fileno()
        done = run("--data-dir", str(tmp_path), "--fd", str(fd), pass_fds=(fd,))
    assert done.returncode == 1
    assert (
        done.stderr == "esper broker: the inherited socket listens on 0.0.0.0: the embedded log serves loopback only\n"
    )


def test_an_inherited_socket_keeps_its_port_and_its_callers_over_a_restart(host, batch_of):
    """Who connects while no broker runs waits in the socket's queue, and is served by the next one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = host.start(fd=listening.fileno())
        client = host.connect(first)
        client.create("t")
        client.produce("t", batch_of(b"v"))
        first.kill()
        early = host.connect(first)  # to the port, which nobody serves now
        early.send(early.fetch_request("t", 0))
        second = host.start(fd=listening.fileno())
        assert second.port == first.port == listening.getsockname()[1]
        assert early.answer(1, 11).responses[0].partitions[0].high_watermark == 1


def test_it_dies_with_its_starter(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from streams.broker.launch import start_broker;"
        "print(start_broker(Path(sys.argv[1]), anonymous=True).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while time.monotonic() < until and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)
    assert (tmp_path / "log" / "boot").read_text() == "clean"


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "log").touch()
    done = run("--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "log: File exists: choose a folder that can be written" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(LogUnavailable, match="choose a folder that can be written"):
        start_broker(tmp_path, anonymous=True)


def test_it_takes_little_memory(broker):
    """Python and the codecs, no torch, no aiokafka: 40 MiB where this was written."""
    status = Path(f"/proc/{broker.pid}/status").read_text()
    rss_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert rss_kib < 80 * 1024
