"""Tables line up, values read well, and JSON takes what a database gives."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from esper.cli.output import cell, complain, say_hanging, say_json, say_json_rows, table


def test_columns_line_up_whatever_their_style(monkeypatch):
    monkeypatch.setattr("esper.cli.output.colours_wanted", lambda: True)
    text = table(("name", "n"), [("a\x1b[32mb\x1b[0m", 1), ("longer", 12345)], right=(1,))
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in text.splitlines()] == [
        "name        n",
        "ab          1",
        "longer  12345",
    ]


def test_empty_table_is_its_header():
    assert table(("a", "b"), []) == "a  b"


def test_cells_are_short_and_on_one_line():
    assert [cell(value) for value in (None, True, 0.123456, 1234567.0, "a\nb", b"\x01\xff", [1, b"\x02"])] == [
        *("-", "yes", "0.1235", "1.235e+06", "a b", "01ff"),
        '[1, "02"]',
    ]


def test_json_has_hex_for_bytes_and_iso_for_times(capsys):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    say_json([b"\x01", moment, timedelta(seconds=2), Decimal("1.5"), UUID(int=1)])
    assert json.loads(capsys.readouterr().out) == [
        *("01", "2026-01-02T03:04:05+00:00", 2.0, 1.5),
        "00000000-0000-0000-0000-000000000001",
    ]


def test_json_has_null_where_a_figure_is_not_finite(capsys):
    say_json({"loss": float("nan"), "windows": [(1.5, float("inf"))]})
    say_json_rows({"loss": loss} for loss in (0.5, float("-inf")))
    assert capsys.readouterr().out.splitlines() == [
        '{"loss": null, "windows": [[1.5, null]]}',
        '[{"loss": 0.5}, {"loss": null}]',
    ]


def test_complaints_are_one_line_on_stderr(capsys):
    complain("first\nsecond")
    assert capsys.readouterr().err == "esper: first second\n"


def test_long_text_hangs_beside_its_prefix_on_a_terminal_alone(capsys, monkeypatch):
    say_hanging("0.1 s  \x1b[36mgate\x1b[0m  ", "word " * 12)
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    say_hanging("0.1 s  \x1b[36mgate\x1b[0m  ", "word " * 12)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("word word word")
    assert second.startswith(" " * 13 + "word")
