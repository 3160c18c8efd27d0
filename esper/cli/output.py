"""How the command prints: tables and lines that read the same in a file, colours and bars on terminals only."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
NARROWEST: Final = 30
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
Tell: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are done, and with those that are to be done where that was not known before."""


def colours_wanted() -> bool:
    """Whether stdout is a terminal that shows colours (https://no-color.org is respected)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, *codes: str) -> str:
    """`text` in a style on a terminal, as it is elsewhere."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and colours_wanted() else text


def say_hanging(prefix: str, text: str) -> None:
    """`text` behind `prefix`: one line where it is read by programs, wrapped beside the prefix on a terminal."""
    room = shutil.get_terminal_size().columns - _width(prefix)
    lines = textwrap.wrap(text, room) if sys.stdout.isatty() and room >= NARROWEST else [text]
    say(prefix + f"\n{' ' * _width(prefix)}".join(lines))


def say(text: str = "") -> None:
    """One line (or more) for the person, on stdout."""
    sys.stdout.write(text + "\n")


def complain(message: str) -> None:
    """One line on stderr: what is wrong and the way out."""
    sys.stderr.write(f"esper: {' '.join(message.split())}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def say_json_rows(rows: Iterable[Any]) -> None:
    """One JSON list on one line, written as its items come."""
    sys.stdout.write("[")
    for i, row in enumerate(rows):
        sys.stdout.write(", " * (i > 0) + _json(row))
    sys.stdout.write("]\n")
    sys.stdout.flush()


def _json(value: Any) -> str:
    """JSON as every parser takes it: what is no finite number is null (RFC 8259 has no NaN)."""
    try:
        return json.dumps(value, default=plain, separators=(", ", ": "), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=plain, separators=(", ", ": "))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def plain(value: Any) -> Any:
    """What JSON has no type for: ids and hashes as hex, times in ISO 8601, anything else as its text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date | UUID):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


def cell(value: Any) -> str:
    """One value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    if isinstance(value, str | int):
        return str(value).replace("\n", " ")
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, default=plain)
    return str(plain(value))


def _width(text: str) -> int:
    """How wide a text is on the screen, its style not counted."""
    return len(_STYLE.sub("", text))


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = ()) -> str:
    """Rows in aligned columns under their headers, `right` naming the columns that end at their right edge."""
    texts = _texts(rows)
    widths = _widths(texts, [len(header) for header in headers])
    return "\n".join([styled(_line(headers, widths, set(right)), DIM), *_lines(texts, widths, set(right))])


def say_table(headers: Sequence[str], blocks: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Rows that come in blocks under their headers; a later block's columns are as wide as those before, or wider."""
    widths = [len(header) for header in headers]
    first = True
    for block in blocks:
        texts = _texts(block)
        widths = _widths(texts, widths)
        if first:
            say(styled(_line(headers, widths), DIM))
        first = False
        say("\n".join(_lines(texts, widths)))
    if first:
        say(styled(_line(headers, widths), DIM))


def _texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[cell(value) for value in row] for row in rows]


def _widths(texts: list[list[str]], least: Sequence[int]) -> list[int]:
    return [max(width, *(_width(row[i]) for row in texts), 0) for i, width in enumerate(least)]


def _lines(texts: list[list[str]], widths: Sequence[int], right: AbstractSet[int] = frozenset()) -> list[str]:
    return [_line(row, widths, right) for row in texts]


def _line(values: Sequence[str], widths: Sequence[int], right: AbstractSet[int] = frozenset()) -> str:
    padded = (
        " " * (width - _width(value)) + value if i in right else value + " " * (width - _width(value))
        for i, (value, width) in enumerate(zip(values, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


@contextmanager
def meter(label: str, total: int | None = None) -> Iterator[Tell]:
    """A bar on stderr while this lasts, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for people
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)
