"""How the command prints: plain tables and lines that read the same in a file, colours on terminals only."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
NARROWEST: Final = 30
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")


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
    sys.stdout.write(json.dumps(value, default=plain, separators=(", ", ": ")) + "\n")
    sys.stdout.flush()


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
    texts = [[cell(value) for value in row] for row in rows]
    widths = [max(len(header), *(_width(row[i]) for row in texts), 0) for i, header in enumerate(headers)]
    to_the_right = set(right)

    def line(values: Sequence[str]) -> str:
        padded = (
            " " * (width - _width(value)) + value if i in to_the_right else value + " " * (width - _width(value))
            for i, (value, width) in enumerate(zip(values, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([styled(line(headers), DIM), *(line(row) for row in texts)])
