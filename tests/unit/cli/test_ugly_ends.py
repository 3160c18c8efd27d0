"""Odd folders, wrong addresses, closed and full outputs: one line that says what to do, and never a traceback."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from esper.cli.app import dispatch
from esper.cli.output import complain
from esper.errors import InvalidInput, LogUnavailable
from esper.weatherlight import forkserver
from projections import questions
from streams import consumer
from streams.keys import load_key_ring
from streams.settings import Settings


class Full(io.StringIO):
    """A stream whose disk is full."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


ODD = "a?b#c%41 [x]*'\"$(x)\n::é"
READING = (
    ["runs"],
    ["events", "last"],
    ["why", "last", "s1"],
    ["state", "last"],
    ["diff", "last", "last"],
    ["sql", "from runs"],
    ["sql", "--schema"],
    ["archive", "status"],
    ["archive", "verify"],
    ["projections", "list"],
    ["projections", "lag"],
    ["blueprints", "list", "--outcomes"],
    ["blueprints", "history", "BP009"],
    ["report", "last", "--to", "FOLDER/r.html"],
    ["export", "last", "--to", "FOLDER/out", "--with-objects"],
    ["verify", "FOLDER/out"],
    ["archive", "copy", "FOLDER/copy"],
)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """The small history in a folder with every sign in its name that means something to somebody."""
    folder = tmp_path / ODD
    shutil.copytree(questions.folder(), folder)
    return folder


def test_every_reading_command_reads_a_folder_of_any_name(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in READING:
        where = [] if command[0] == "verify" else ["--data-dir", str(odd)]
        code = dispatch([*(word.replace("FOLDER", str(odd)) for word in command), *where])
        told = capsys.readouterr()

        assert code == 0, (command, told.err)
    assert not (odd.parent / "a").exists()


@pytest.mark.parametrize(
    "brokers",
    ["a:b", "localhost:99999", "localhost:0", "localhost", ":9092", "a:1,b", "a:1,", "http://a", "a:-1", "a:²"],
)
def test_an_address_that_is_none_is_told_at_once(
    brokers: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_BROKERS", brokers)
    monkeypatch.setenv("ESPER_KEY", "11" * 32)
    for command in (["run"], ["up"], ["resume", "last"], ["fork", "last", "--at", "1", "--do", "nothing"]):
        assert dispatch([*command, "--data-dir", str(tmp_path)]) == 2
        told = capsys.readouterr().err

        assert told.startswith("esper: ESPER_BROKERS: ")
        assert "HOST:PORT" in told
        assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("brokers", ["a:1", "127.0.0.1:9092,[::1]:9093", " a:1 , b:2 "])
def test_addresses_that_are_some_are_taken(brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_BROKERS", brokers)
    assert Settings.load().brokers == brokers


def test_the_home_folder_is_meant_by_its_sign(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(questions.folder(), tmp_path / "x")
    monkeypatch.setenv("ESPER_DATA", "~/x")
    assert Settings.load().data == tmp_path / "x"
    assert dispatch(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 1
    assert dispatch(["runs", "--data-dir", "~nobody-at-all/x"]) == 2
    assert "name the data folder in full" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="ESPER_DATA: there is no home folder"):
        Settings.load(data=Path("~nobody-at-all/x"))

    assert not (tmp_path / "~").exists()


def test_a_home_that_cannot_be_written_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null/config")
    monkeypatch.delenv("ESPER_KEY", raising=False)
    with pytest.raises(InvalidInput, match=r"signing key .* cannot be made: Not a directory; set XDG_CONFIG_HOME"):
        load_key_ring(Settings())


ENDS = """
import os, sys
import esper.cli, esper.cli.app, esper.cli.history, projections.history
for case in sys.argv[1:]:
    for words in ["sql --schema --json", "--help", "runz"]:
        child = os.fork()
        if child:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with open(case + " report", "a") as report:
                report.write(f"{words}: {code}\\n")
            continue
        sys.argv = ["esper", *words.split()]
        how, *streams = case.split()
        for number, stream in enumerate(("stdin", "stdout", "stderr")):
            if number:
                os.dup2(os.open(f"{case} {number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            if stream in streams:
                getattr(sys, stream).close()
                if how == "full":
                    os.dup2(os.open("/dev/full", os.O_RDWR), number)
                setattr(sys, stream, open(number, "r" if number == 0 else "w") if how == "full" else None)
        esper.cli.main()
"""
CASES = {
    "closed stdin": 0,
    "closed stdout": 0,
    "closed stdin stdout stderr": 0,
    "full stdout": 1,
    "full stdout stderr": 1,
    "full stderr": 0,
}
"""How which streams are, and with what a command ends then that has nothing else to complain of."""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands wrote and how they ended, each case in files of its own: one process forks them all."""
    folder = tmp_path_factory.mktemp("ends")
    subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", ENDS, *CASES],
        env={"ESPER_DATA": str(questions.folder()), "PATH": "/usr/bin:/bin"},
        cwd=folder,
        check=True,
        timeout=120,
    )
    return folder


@pytest.mark.parametrize("case", CASES)
def test_closed_and_full_streams_end_in_one_line(ends: Path, case: str) -> None:
    stdout, stderr, report = ((ends / f"{case} {what}").read_text() for what in (1, 2, "report"))
    ended = dict(line.split(": ") for line in report.splitlines())

    assert "Traceback" not in stderr + stdout
    assert "Exception ignored" not in stderr
    assert ended.pop("runz") == "2"
    assert ended == dict.fromkeys(ended, str(CASES[case]))
    assert len(ended) == 2
    assert bool(stdout) == ("stdout" not in case)
    if case == "full stdout":
        assert stderr.count("No space left on device; make room") == 2


def test_what_ended_a_process_is_told_where_its_log_lies_on_the_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_arguments: object, _messages: object) -> int:
        raise LogUnavailable("the disk is full")

    def breaks(_arguments: object, _messages: object) -> int:
        raise OSError(28, "No space left on device")

    for target, told in ((fails, "the disk is full"), (breaks, "No space left on device")):
        messages = io.StringIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", Full())
            code = forkserver._run(target, forkserver.Order("x", "x:y", ()), messages)

        assert code == 1
        assert told in json.loads(messages.getvalue())["error"]


def test_a_complaint_that_nobody_can_read_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    complain("something")


def test_a_log_that_takes_connections_and_says_nothing_is_left_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import gc
    import socket

    from esper.cli import tail
    from esper.leyline.signing import KeyRing

    monkeypatch.setattr(tail, "CONNECT_S", 0.3)
    monkeypatch.setattr(consumer, "TIMEOUT_S", 0.3)
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LogUnavailable):
            tail.LogTail(address, KeyRing((b"1" * 32,)), ["a"])
        with pytest.raises(LogUnavailable):
            consumer.ends_of(address)
    gc.collect()

    assert ignored == []
    assert "Unclosed" not in capfd.readouterr().err
    assert not [each for each in threading.enumerate() if each.name == "log-tail"]
