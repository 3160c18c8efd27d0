"""The doctor finds what is missing and says what to do about it."""

from __future__ import annotations

import json
import socket

import pytest

from esper.cli.app import dispatch
from esper.cli.up import examine, kept_by, open_of
from streams.background import LoopThread
from streams.broker.limits import Limits
from streams.broker.server import Broker, listening_socket
from streams.topics import Copies


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    for name in ("ESPER_BROKERS", "ESPER_KEY", "ESPER_DATA", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _finding(tmp_path, check):
    return next(finding for finding in examine(tmp_path / "data") if finding.check == check)


@pytest.mark.requirement("R-OPS-14")
def test_a_fresh_machine_is_fine_and_nothing_is_made(tmp_path, capsys):
    assert dispatch(["doctor", "--json", "--data-dir", str(tmp_path / "data")]) == 0
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["python"]["verdict"] == "ok"
    assert "none running" in found["processes"]["found"]
    assert "embedded broker" in found["log address"]["found"]
    assert "the first run makes a key" in found["signing key"]["found"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_kernels_run_eagerly(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = _finding(tmp_path, "compiler")
    assert finding.verdict == "note"
    assert "install g++" in finding.found


def test_an_address_that_does_not_answer_is_bad(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free_port = taken.getsockname()[1]
    monkeypatch.setenv("ESPER_BROKERS", f"127.0.0.1:{free_port}")
    monkeypatch.setenv("ESPER_KEY", "ab" * 32)
    assert dispatch(["doctor", "--data-dir", str(tmp_path)]) == 1
    assert f"127.0.0.1:{free_port} does not answer" in capsys.readouterr().out


@pytest.fixture
def address(tmp_path):
    """A log that answers: a broker in a thread of this process."""
    thread, sock = LoopThread("broker"), listening_socket(0)

    async def begin():
        broker = Broker(tmp_path / "log", Limits(), anonymous=True)
        await broker.start(sock)
        return broker

    broker = thread.run(begin(), 10)
    yield f"127.0.0.1:{sock.getsockname()[1]}"
    thread.run(broker.stop(), 10)
    thread.stop()


def test_a_log_that_answers_is_fine_but_needs_a_key(tmp_path, monkeypatch, address):
    monkeypatch.setenv("ESPER_BROKERS", address)
    found = {finding.check: finding for finding in examine(tmp_path / "data")}
    assert (found["log address"].verdict, found["log copies"].verdict) == ("ok", "ok")
    assert (found["log groups"].verdict, found["log groups"].found) == ("ok", "all 4 are open to this user")
    assert "no topics yet" in found["log copies"].found
    assert found["signing key"].verdict == "bad"
    assert "set ESPER_KEY" in found["signing key"].found
    monkeypatch.setenv("ESPER_KEY", "ab" * 32)
    assert _finding(tmp_path, "signing key").verdict == "ok"


def test_no_address_is_no_address(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_BROKERS", "redpanda")
    monkeypatch.setenv("ESPER_KEY", "ab" * 32)
    assert "is no HOST:PORT" in _finding(tmp_path, "log address").found


def test_a_folder_that_is_a_file_is_bad(tmp_path):
    (tmp_path / "data").write_text("no folder")
    finding = _finding(tmp_path, "data folder")
    assert finding.verdict == "bad"
    assert "cannot be made" in finding.found


@pytest.mark.parametrize(
    ("mode", "verdict", "said"),
    [(0o700, "ok", "asks for its secret"), (0o755, "note", "chmod 700"), (0o757, "bad", "chmod o-w")],
)
def test_it_says_what_other_users_of_the_machine_can_do(tmp_path, mode, verdict, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)

    finding = _finding(tmp_path, "other users")

    assert finding.verdict == verdict
    assert said in finding.found


def test_a_secret_that_others_can_read_is_bad(tmp_path):
    secret = tmp_path / "data" / "log" / "secret"
    secret.parent.mkdir(parents=True)
    secret.write_text("ab" * 32)
    secret.chmod(0o644)

    finding = _finding(tmp_path, "other users")

    assert finding.verdict == "bad"
    assert f"chmod 600 {secret}" in finding.found


def test_where_the_log_is_elsewhere_other_users_have_the_files_at_most(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_BROKERS", "redpanda:9092")
    (tmp_path / "data").mkdir(mode=0o700)

    assert _finding(tmp_path, "other users").verdict == "ok"


@pytest.mark.parametrize(
    ("log", "verdict", "said"),
    [
        (Copies(3, {"esper.runs": (3, 2), "esper.commands": (3, 2)}), "ok", "3 of every topic, and 2 acknowledge"),
        (Copies(1, {"esper.runs": (1, 1)}), "ok", "the log has one broker, and keeps what its disk keeps"),
        (Copies(3, {}), "ok", "no topics yet; the first run makes them (3 brokers)"),
        (
            Copies(3, {"esper.runs": (3, 1), "esper.commands": (3, 2)}),
            "note",
            "one broker of esper.runs: run `kafka-co",
        ),
        (Copies(3, {"esper.runs": (3, 1)}), "note", "--add-config min.insync.replicas=2` for each"),
        (Copies(2, {"esper.runs": (1, 1)}), "note", "give esper.runs more copies with kafka-reassign-partitions"),
    ],
)
def test_topics_that_die_with_one_broker_are_named(log, verdict, said):
    """Made before Esper asked for two in sync, or by somebody else."""
    found = kept_by(log)

    assert found[0] == verdict
    assert said in found[1]


def test_groups_that_are_closed_are_named_and_that_of_the_fleet_is_not_everybodys():
    assert open_of(["esper-archiver", "esper-fleet"]) == (
        "bad",
        "closed to this user: esper-archiver, esper-fleet; give it Read on them: docs/kafka.md has the rights",
    )
    assert open_of(["esper-fleet"])[0] == "note"
    assert "for `esper submit`, `work` and `withdraw` alone" in open_of(["esper-fleet"])[1]
