"""Code that came with somebody else's run is named and asked for before it is run; one's own goes on unasked."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import esper
from contracts.leyline.v1 import event_pb2 as e
from esper.cli.app import dispatch
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing, key_id
from projections.archive_writer import Archive
from projections.testing import LogOfRecords
from streams.records import headers_of

MINE, THEIRS, RETIRED = (bytes([number]) * 32 for number in (1, 2, 3))
RUN = "k3f9x2qa"
COMMANDS = (
    ["replay", RUN],
    ["resume", RUN],
    ["fork", RUN, "--at", "0", "--do", "nothing"],
    ["state", RUN, "--load", "w.safetensors"],
    ["load", RUN, "--out", "net.py"],
)


class Terminal(io.StringIO):
    """A stream that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that the stranger's code makes."""
    return tmp_path / "ran"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESPER_KEY", MINE.hex())
    monkeypatch.setenv("ESPER_KEYS_RETIRED", f"{RETIRED.hex()}@{10**10}")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recorded(tmp_path: Path, story: list[Event], ran: Path, keys: None) -> Callable[..., Path]:
    """A data folder with the story, signed with a key, on a task of the trainer's own."""

    def make(key: bytes | None, *, code: bool = True, swapped: bool = False) -> Path:
        folder = tmp_path / "data"
        source = f"open({str(ran)!r}, 'w').close()\nEVIL = '\x1b[2J'\n".encode()
        started = story[0].run_started
        started.task_source = "builtin:spirals"
        started.config_json = json.dumps({"task": "/home/ada/task.py:mine" if code else "spirals"})
        if code:
            started.task_source = "file:" + ObjectStore(folder / "objects").put(source).removeprefix("sha256:")
        if swapped:
            swap = e.KernelSwapped(seed_id="s1", blueprint_id="BP009", artifact_ref=f"sha256:{'ab' * 32}")
            next(event for event in story if event.HasField("gate_evaluated")).kernel_swapped.CopyFrom(swap)
        records = LogOfRecords().place(story)
        if key is not None:
            ring = KeyRing((key,))
            records = [replace(each, headers=tuple(headers_of(ring.sign(each.value or b"")))) for each in records]
        with Archive(folder / "archive") as archive:
            archive.append(records)
        return folder

    return make


def test_a_script_is_told_whose_code_a_run_brings_before_any_of_it_is_run(
    recorded: Callable[..., Path], ran: Path
) -> None:
    folder = recorded(THEIRS)

    with pytest.raises(InvalidInput, match=rf"task /home/ada/task.py:mine .*{key_id(THEIRS)}.* and add trust=True to"):
        esper.load(RUN, data_dir=folder)
    assert not ran.exists()
    with pytest.raises(InvalidInput, match="has no checkpoint yet"):  # and with it, it goes on
        esper.load(RUN, data_dir=folder, trust=True)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("key", [THEIRS, RETIRED, None], ids=["theirs", "retired", "unsigned"])
def test_without_a_terminal_a_strangers_code_is_not_run(
    recorded: Callable[..., Path], ran: Path, command: list[str], key: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(key)
    code = dispatch([*command, "--data-dir", str(folder)])
    told = capsys.readouterr().err

    assert code == 2
    assert told.count("\n") == 1
    assert "the Python file of task /home/ada/task.py:mine" in told
    assert key_id(MINE) in told
    assert (f"signed with key {key_id(key)}" if key else "signed with key test") in told
    assert f"`cat {folder}/objects/" in told
    assert "--trust" in told
    assert not ran.exists()
    assert not (folder / "run").exists()


def test_trusted_it_is_run(recorded: Callable[..., Path], ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes no task and ends there, in both cases: that it was run is what is looked at."""
    folder = recorded(THEIRS)
    assert dispatch(["replay", RUN, "--trust", "--data-dir", str(folder)]) == 2
    assert ran.exists()
    assert "defines no function mine" in capsys.readouterr().err


def test_ones_own_is_run_unasked(recorded: Callable[..., Path], ran: Path) -> None:
    assert dispatch(["replay", RUN, "--data-dir", str(recorded(MINE))]) == 2
    assert ran.exists()


@pytest.mark.parametrize(("answers", "runs"), [("s\nn\n", False), ("\n", False), ("", False), ("s\ny\n", True)])
def test_at_a_terminal_a_person_is_asked_and_can_read_it(
    recorded: Callable[..., Path], ran: Path, answers: str, *, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = recorded(THEIRS), Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answers))
    monkeypatch.setattr(sys, "stderr", said)
    assert dispatch(["replay", RUN, "--data-dir", str(folder)]) == 2

    assert ran.exists() is runs
    assert ("open(" in said.getvalue()) is ("s" in answers)
    assert "\x1b[2J" not in said.getvalue()


def test_a_compiled_kernel_is_code_too(recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["replay", RUN, "--data-dir", str(recorded(THEIRS, code=False, swapped=True))]) == 2
    assert f"a compiled kernel of BP009 (SHA-256 {'ab' * 32}" in capsys.readouterr().err


def test_a_run_that_brings_no_code_is_not_asked_about(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["replay", RUN, "--data-dir", str(recorded(THEIRS, code=False))])
    assert "--trust" not in capsys.readouterr().err


def test_a_column_that_calls_the_fact_something_else_hides_no_code(
    recorded: Callable[..., Path], ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(THEIRS)
    path = folder / "archive" / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    entry = next(each for each in manifest["files"] if each["table"] == "run_started")
    file = folder / "archive" / "files" / entry["name"]
    table = pq.read_table(file)
    place = table.column_names.index("log_body")
    other = table.column(place).cast("string").to_pylist()
    pq.write_table(table.set_column(place, "log_body", [["lrc" for _ in other]]), file)
    entry["sha256"], entry["size"] = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size
    path.write_text(json.dumps(manifest))

    assert dispatch(["replay", RUN, "--data-dir", str(folder)]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not ran.exists()
