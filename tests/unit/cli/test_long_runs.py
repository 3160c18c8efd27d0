"""A report, `state` and `why` of a long run: work grows with what is told, and that of `state` does not grow.

Counted are the calls that Python makes: those are the same on any machine, however busy it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.cli.app import dispatch
from projections import open_history
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.report import page, report_query

EPOCHS = (60, 120, 240)
"""The next 120 epochs cost twice what the second 60 did where work is linear; 3.2 times in the report as it was."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Data folders with one run each, of so many epochs, opened once: the pages of what is new are looked at then."""
    found = {}
    for epochs in EPOCHS:
        found[epochs] = tmp_path_factory.mktemp(f"long-{epochs}")
        with Archive(found[epochs] / "archive") as archive:
            archive.append(list(records(history(1, epochs=epochs, telemetry=False))))
        open_history(found[epochs] / "archive").close()
    return found


def calls(act: Callable[[], object]) -> int:
    """How many calls an act makes."""
    made = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return made


def test_a_reports_work_grows_as_its_run(folders, monkeypatch):
    """Every decision acts and every command has a report: each row of one table looked for its row in another."""
    monkeypatch.setattr(report_query, "SHOWN", 10**6)

    def told(epochs: int) -> int:
        with open_history(folders[epochs] / "archive") as found:
            ((run_id,),) = found.execute("select run_id from runs").fetchall()
            return calls(lambda: page(found, run_id))

    _, few, some, many = map(told, (EPOCHS[0], *EPOCHS))  # the first imports and caches

    assert many - some <= 2.5 * (some - few)


def test_a_long_table_shows_its_ends_and_says_so(folders, monkeypatch):
    monkeypatch.setattr(report_query, "SHOWN", 20)
    with open_history(folders[60] / "archive") as found:
        ((run_id,),) = found.execute("select run_id from runs").fetchall()
        told = page(found, run_id)

    assert "60 of 60 decisions" in told
    assert "The 40 in the middle are left out" in told
    assert told.count("the probe loss has not moved") == 20


@pytest.mark.parametrize(("command", "grows"), [(["why", "last", "s1"], True), (["state", "last"], False)])
def test_a_commands_work_grows_as_what_it_tells(folders, capsys, command, grows):
    def told(epochs: int) -> int:
        return calls(lambda: dispatch([*command, "--data-dir", str(folders[epochs])]))

    _, few, some, many = map(told, (EPOCHS[0], *EPOCHS))  # the first imports and caches

    assert capsys.readouterr().err == ""
    if grows:
        assert many - some <= 2.5 * (some - few)
    else:
        assert many <= 1.2 * few
