"""What a trainer says over its pipe, a person's print() among it; refusing a breakpoint, for want of a terminal."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any, Final, NoReturn, TextIO

from esper.errors import InvalidInput
from esper.tolaria.own_code import caller

LONGEST: Final = 4_000
"""Characters of a printed line that are passed on; the trainer's log has it whole."""


class Messages:
    """Writes one JSON object a line, whoever calls it and from whichever thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, message: dict[str, Any]) -> None:
        """Write a message, at once."""
        line = json.dumps(message) + "\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


class Printed(io.TextIOBase):
    """A stdout that writes to another one, and tells each whole line that is printed."""

    def __init__(self, log: TextIO, tell: Messages) -> None:
        self._log = log
        self._tell = tell
        self._begun = ""

    def write(self, text: str) -> int:
        """Write `text`; the lines that it ends are told."""
        self._log.write(text)
        *lines, begun = (self._begun + text).split("\n")
        for line in lines:
            self._tell({"printed": _as_it_stands(line)})
        self._begun = _as_it_stands(begun)
        return len(text)

    def flush(self) -> None:
        """Flush the log; a line that has only begun is told once it ends."""
        self._log.flush()

    def writable(self) -> bool:
        """As a stdout is."""
        return True

    def fileno(self) -> int:
        """The log's."""
        return self._log.fileno()

    @property
    def buffer(self) -> Any:
        """The log's, for who writes bytes; those are not told."""
        return self._log.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a stdout has one
        """The log's."""
        return self._log.encoding


def _as_it_stands(line: str) -> str:
    """What a terminal would show of a line: what was printed over, as a progress bar is, is gone."""
    return line.rstrip("\r").rpartition("\r")[2][:LONGEST]


class NoTerminal(io.TextIOBase):
    """A stdin for a process that has no terminal: reading it raises, with the way to do it."""

    def readable(self) -> bool:
        """As a stdin is."""
        return True

    def readline(self, _size: int | None = -1) -> str:  # type: ignore[override]
        """Raise InvalidInput."""
        refuse("what reads from the terminal")

    def read(self, _size: int | None = -1) -> str:
        """Raise InvalidInput."""
        refuse("what reads from the terminal")


def without_a_terminal(tell: Messages) -> None:
    """From now on print() is told as well as logged, and a breakpoint or input() raises InvalidInput."""
    sys.stdout = Printed(sys.stdout, tell)
    sys.stdin = NoTerminal()
    sys.breakpointhook = lambda *_args, **_named: refuse("a breakpoint")


def refuse(what: str) -> NoReturn:
    """Raise InvalidInput at the line of a person's own that asks for a terminal."""
    place = caller()
    at = f"{place}: " if place is not None else ""
    raise InvalidInput(
        f"{at}{what} needs the terminal, and `esper run` trains in a process of its own; "
        "add --in-process, which trains in this one"
    )
