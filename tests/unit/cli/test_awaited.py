"""Which run `--follow` means while one begins: the newest of those that commands train, as soon as it can be read."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from esper.cli.awaited import await_run, trained
from esper.errors import InvalidInput
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers


@pytest.fixture
def begin(tmp_path):
    """Archives the start of a run."""
    log = LogOfRecords()

    def made(run_id: str) -> None:
        with Archive(tmp_path / "archive") as archive:
            archive.append(log.place(Trainers(run_id).events))

    return made


@pytest.mark.parametrize(
    ("clients", "known"),
    [
        (["esper run abcdefgh", "esper up", "esper resume last"], ["abcdefgh"]),
        (["esper run abcdefgh", "esper fork 0123abcd"], ["abcdefgh", "0123abcd"]),
        ([], []),
    ],
)
def test_runs_that_commands_train(clients: Sequence[str], known: list[str]) -> None:
    assert trained(clients) == known


def test_last_is_the_run_that_begins_and_not_the_one_before(tmp_path, begin) -> None:
    begin("0000aaaa")
    assert await_run(tmp_path, "last", list) == "0000aaaa"

    threading.Timer(0.1, begin, ["1111bbbb"]).start()
    assert await_run(tmp_path, "last", lambda: ["esper run 1111bbbb"]) == "1111bbbb"
    assert await_run(tmp_path, "0000", lambda: ["esper run 1111bbbb"]) == "0000aaaa"


def test_an_empty_folder_waits_for_its_first_run(tmp_path, begin, capsys) -> None:
    threading.Timer(0.1, begin, ["1111bbbb"]).start()
    assert await_run(tmp_path, "last", list) == "1111bbbb"
    assert "waiting for a run to begin" in capsys.readouterr().err


def test_a_run_that_ends_before_it_wrote_anything_is_told(tmp_path) -> None:
    clients = iter([["esper run 1111bbbb"], ["esper run 1111bbbb"], []])
    with pytest.raises(InvalidInput, match="run 1111bbbb ended before it wrote anything"):
        await_run(tmp_path, "1111", lambda: next(clients))
