"""The supervisor: one per data folder, joined by later clients, gone with the last of them, leaving no process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from esper.errors import InvalidInput, LogUnavailable
from esper.weatherlight import client


def port_of(brokers: str) -> int:
    return int(brokers.rpartition(":")[2])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_second_client_joins_the_first_ones_broker_and_the_last_one_out_ends_it(esper):
    with client.join(esper.data_dir, client="first", broker_only=True) as first:
        first.wait_ready()
        second = client.join(esper.data_dir, client="second", broker_only=True)
        second.wait_ready()
        assert second.brokers == first.brokers
        assert second.status.clients == ("first", "second")
        assert not second.release()
        assert answers(port_of(first.brokers))
        since = time.monotonic()
        assert first.release()
        assert time.monotonic() - since < 5.0
    assert esper.processes() == []
    assert not answers(port_of(first.brokers))
    assert client.status(esper.data_dir) is None


@pytest.mark.cold
def test_clients_that_start_at_once_share_one_supervisor(esper):
    program = (
        "import sys\nfrom pathlib import Path\nfrom esper.weatherlight import client\n"
        "with client.join(Path(sys.argv[1]), client='one of many', broker_only=True) as lease:\n"
        "    lease.wait_ready()\n    print(lease.status.pid, lease.brokers, flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", program, str(esper.data_dir)]
    clients = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {each.stdout.readline() for each in clients}
    for each in clients:
        each.communicate("go\n", timeout=10)
    assert len(said) == 1
    esper.wait_until(lambda: not esper.processes(), 5.0)


def test_client_that_comes_while_the_supervisor_leaves_gets_the_next_one(esper):
    for _ in range(2):
        with client.join(esper.data_dir, client="leaving", broker_only=True) as first:
            first.wait_ready()
            first._connection.close()  # the lease ends without a word, as with a killed client
            with client.join(esper.data_dir, client="coming", broker_only=True) as second:
                second.wait_ready()
                assert answers(port_of(second.brokers))
    esper.wait_until(lambda: not esper.processes(), 5.0)


def test_killed_client_gives_its_lease_back(esper):
    process = esper.start("broker", "--json")
    process.stdout.readline()
    process.kill()
    process.communicate()
    esper.wait_until(lambda: not esper.processes(), 5.0)


def test_supervisor_whose_client_never_asked_ends(esper):
    esper.data_dir.mkdir()
    command = [sys.executable, "-m", "esper.weatherlight", "--data-dir", str(esper.data_dir)]
    assert subprocess.run(command, check=True, capture_output=True, timeout=30).stdout == b""


@pytest.mark.cold
def test_killed_supervisor_leaves_no_process(esper):
    process = esper.start("broker", "--json")
    process.stdout.readline()
    os.kill(client.status(esper.data_dir).pid, signal.SIGKILL)
    process.communicate(timeout=5)
    assert process.returncode == 0
    esper.wait_until(lambda: not esper.processes(), 5.0)


def back(service) -> bool:
    return service.state == "ready" and service.restarts == 1


def test_killed_broker_comes_back_on_its_port(esper):
    with client.join(esper.data_dir, client="test", broker_only=True) as lease:
        lease.wait_ready()
        before = esper.find("broker").pid
        os.kill(before, signal.SIGKILL)
        esper.wait_until(lambda: (lease.poll(0.1), back(lease.status.services[0]))[1])
        assert lease.status.services[0].last_exit == "killed by SIGKILL"
        assert answers(port_of(lease.brokers))
        assert esper.find("broker").pid != before


def test_a_lease_is_renewed_with_the_broker_at_its_old_port(esper):
    with client.join(esper.data_dir, client="test", broker_only=True) as lease:
        lease.wait_ready()
        before, port = lease.status.pid, port_of(lease.brokers)
        os.kill(before, signal.SIGKILL)
        with pytest.raises(client.SupervisorGone):
            esper.wait_until(lambda: lease.poll(0.1) and None)
        lease.renew()
        lease.wait_ready()
        assert (lease.status.pid != before, port_of(lease.brokers)) == (True, port)


def test_port_is_the_one_asked_for_and_one_that_is_taken_is_refused(esper):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port} cannot be had: Address already in use"):
            client.join(esper.data_dir, client="test", port=port, broker_only=True)
    with client.join(esper.data_dir, client="test", port=port, broker_only=True) as lease:
        lease.wait_ready()
        assert lease.brokers == f"127.0.0.1:{port}"
        with pytest.raises(InvalidInput, match=f"already listens on port {port}, so it cannot listen on {port + 1}"):
            client.join(esper.data_dir, client="other", port=port + 1, broker_only=True)
        with pytest.raises(InvalidInput, match="is in use with the embedded broker, not with redpanda:9092"):
            client.join(esper.data_dir, client="other", brokers="redpanda:9092")
        with pytest.raises(InvalidInput, match="asks for its secret: it can be started with --anonymous"):
            client.join(esper.data_dir, client="other", anonymous=True)
    esper.wait_until(lambda: not esper.processes(), 5.0)


@pytest.mark.cold
def test_folder_with_a_very_long_path_works_and_processes_have_one_thread_for_computing(esper):
    deep = replace(esper, data_dir=esper.data_dir / ("long-" * 20) / ("path-" * 20))
    with client.join(deep.data_dir, client="test", broker_only=True) as lease:
        lease.wait_ready()
        assert client.status(deep.data_dir).brokers == lease.brokers
        assert psutil.Process(deep.find("broker").pid).environ()["OMP_NUM_THREADS"] == "1"
    assert deep.processes() == []


@pytest.mark.cold
def test_what_stops_the_broker_from_starting_is_said_in_one_line(esper):
    (esper.data_dir).mkdir()
    (esper.data_dir / "log").write_text("no folder")
    with client.join(esper.data_dir, client="test", broker_only=True) as lease:
        with pytest.raises(LogUnavailable, match=r"^broker did not start: .*log") as caught:
            lease.wait_ready()
        assert "\n" not in str(caught.value)
    assert esper.processes() == []


def wakeups(processes: list[psutil.Process]) -> int:
    """How often the threads of these processes have waited for something so far: what an idle one costs."""
    status = [task.read_text() for each in processes for task in Path(f"/proc/{each.pid}/task").glob("*/status")]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in status)


@pytest.mark.cold
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_ticks_while_nobody_does_anything(esper):
    """49 times a second, most of them heartbeats and commits of two consumer groups; with tickers it was above 150."""
    with client.join(esper.data_dir, client="test") as lease:
        lease.wait_ready()
        time.sleep(4.0)  # what follows a start is over
        processes = esper.processes()
        before, since = wakeups(processes), time.monotonic()
        time.sleep(4.0)
        assert len(processes) == 7
        assert (wakeups(processes) - before) / (time.monotonic() - since) < 100
