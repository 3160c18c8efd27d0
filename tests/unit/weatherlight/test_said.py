"""What a person's code prints is told line by line, and a breakpoint is refused with the way to do it."""

from __future__ import annotations

import io
import json
import sys

import pytest

from esper.errors import InvalidInput
from esper.weatherlight.said import LONGEST, Messages, Printed, without_a_terminal


def test_printed_lines_are_told_whole_and_logged() -> None:
    pipe, log = io.StringIO(), io.StringIO()
    stdout = Printed(log, Messages(pipe))

    print("loss", 3, end="", file=stdout)
    print(" and\nmore", file=stdout)
    print("x" * 9_000, file=stdout)
    for step in range(1_000):
        print(f"\r{step} of 1000", end="", file=stdout)
    print(file=stdout)
    stdout.flush()

    told = [json.loads(line)["printed"] for line in pipe.getvalue().splitlines()]
    assert told == ["loss 3 and", "more", "x" * LONGEST, "999 of 1000"]
    assert log.getvalue().startswith("loss 3 and\nmore\n" + "x" * 9_000 + "\n\r0 of 1000\r1 of")


@pytest.mark.parametrize("ask", [breakpoint, input, lambda: sys.stdin.read(1)])
def test_what_asks_for_a_terminal_is_refused_at_its_line(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "breakpointhook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    without_a_terminal(Messages(io.StringIO()))

    with pytest.raises(InvalidInput, match=f"{__file__}:\\d+: .* add --in-process"):
        ask()
