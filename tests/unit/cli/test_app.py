"""The command line: every command is documented, wrong input is one line and exit code 2, and it starts fast."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import typer

from esper.cli.app import app, dispatch

GROUPS = {group.name for group in app.registered_groups}
COMMANDS = [name for name in typer.main.get_command(app).commands if name not in GROUPS]
OF_A_FOLDER = ("verify", "sites", "drill")  # it is given the folder itself
PARTS = (
    "Kasmina",
    "Tolaria",
    "Tamiyo",
    "Karn",
    "Leyline",
    "Oona",
    "Nissa",
    "Weatherlight",
    "Urza",
    "Tezzeret",
    "Simic",
)


def test_the_commands_are_found():
    assert {"run", "runs", "events", "why", "sql", "broker", "up", "doctor"} <= set(COMMANDS)


def test_top_help_explains_each_code_name(capsys):
    assert dispatch(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for part in PARTS:
        assert any(line.strip().startswith(part) and len(line.split()) > 2 for line in lines), part


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_shared_options(capsys, command):
    assert dispatch([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: esper {command}" in " ".join(text.split())
    assert ("--data-dir" in text) == ("ESPER_DATA" in text) == (command not in OF_A_FOLDER)
    assert "--json" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "--epocs", "3"], "No such option: --epocs (Possible options: --epochs"),
        (["run", "--policy", "greedy"], "'greedy' is not one of 'heuristic', 'random', 'explore', 'none'"),
        (["run", "--epochs", "0"], "epochs is 0; it must be above 0"),
        (["run", "--task", "no/such/file.py:task"], "task file no/such/file.py does not exist"),
        (["run", "--task", "file.txt:task"], "is no path/to/file.py:function"),
        (["events"], "Missing argument 'RUN'"),
        (["events", "last", "--type", "seed_transition"], "did you mean seed_transitioned?"),
        (["replay", "last", "--data-dir", "no-such-folder"], "no-such-folder holds no history"),
        (["resume", "last", "--data-dir", "no-such-folder"], "no-such-folder holds no history"),
        (["fork", "last", "--at", "3"], "Missing option '--do'"),
        (["fork", "last", "--at", "3", "--do", "water s2"], "'water s2' is nothing that a fork can do; write"),
        (["fork", "last", "--at", "3", "--do", "nothing", "--data-dir", "no-such-folder"], "holds no history"),
        (["broker", "--port", "99999"], "less than or equal to 65535"),
        (["runs", "--data-dir", "no-such-folder"], "no-such-folder holds no history"),
        (["why", "last", "s1", "--data-dir", "no-such-folder"], "no-such-folder holds no history"),
        (["run", "--data-dir", "/proc/nowhere"], "data folder /proc/nowhere cannot be made"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_BROKERS", raising=False)
    assert dispatch(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("esper: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.requirement("R-OPS-14")
def test_outside_broker_without_a_key_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ESPER_BROKERS", "redpanda.example:9092")
    monkeypatch.delenv("ESPER_KEY", raising=False)
    assert dispatch(["run", "--data-dir", str(tmp_path)]) == 2
    assert "the log at redpanda.example:9092 needs a signing key: set ESPER_KEY" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10 * 2**20})())
    assert dispatch(["run", "--data-dir", str(tmp_path)]) == 2
    assert "is full: 10 MB are free and 256 MB are needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_version(capsys):
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out.startswith("esper 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["runs", "--help"],
        ["runs", "--data-dir", "no-such-folder"],
        ["runz"],
        ["run", "--sed", "1"],
        ["run", "--policy", "greedy"],
        ["why"],
        ["blueprints", "shw"],
    ],
    ids=" ".join,
)
def test_starts_within_half_a_second_without_torch(arguments):
    """Counted in processor time, which does not depend on what else the machine does."""
    program = (
        "import sys\nfrom esper.cli.app import dispatch\ndispatch(sys.argv[1:])\n"
        "assert not {'torch', 'duckdb', 'aiokafka'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 0.5
