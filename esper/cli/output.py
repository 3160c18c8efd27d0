"""How the command prints: tables and lines that read the same in a file, colours and bars on terminals only.

All text goes out through here, and `visible` writes out what a terminal would obey: names, reasons and errors come from
events, and an event may come from anybody.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TextIO, TypeAlias
from uuid import UUID

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"
NARROWEST: Final = 30
"""Columns that a text needs at least to stand beside its prefix."""
BELOW: Final = 4
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_OWN: Final = re.compile(r"\x1b\[(?:0|[12]|3[1236])(?:;(?:[12]|3[1236]))*m")
"""The styles that `styled` makes, and no other: a stranger's could hide a text."""
_OBEYED: Final = re.compile(
    r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]"
)
"""What a terminal obeys and does not show: C0 but tab and newline, C1, DEL, and what turns the reading direction."""
Tell: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are done, and with those that are to be done where that was not known before."""


def colours_wanted() -> bool:
    """Whether stdout is a terminal that shows colours (https://no-color.org is respected)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """`text` with every sign written out that a terminal would obey; our own styles stay where they are wanted."""
    if text.isprintable():
        return text
    kept = _OWN if colours_wanted() else None
    return _OBEYED.sub(lambda found: found[0] if kept and kept.fullmatch(found[0]) else _written_out(found[0]), text)


def one_line(text: str) -> str:
    """`text` from an event as a line's part: what would begin another line is written out too."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def _written_out(signs: str) -> str:
    return "".join(sign if " " <= sign <= "~" else ascii(sign)[1:-1] for sign in signs)


def styled(text: str, *codes: str) -> str:
    """`text` in a style on a terminal, as it is elsewhere."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and colours_wanted() else text


def say_hanging(prefix: str, text: str) -> None:
    """`text` behind `prefix`: one line where it is read by programs, wrapped beside the prefix on a terminal.

    No word is broken: where there is little room beside the prefix, the text stands below it.
    """
    room, text = screen_width(), one_line(text)
    say(prefix + text if room is None else hanging(prefix, text, room))


def say(text: str = "") -> None:
    """One line (or more) for the person, on stdout; on a terminal, lines wrap between words."""
    room = screen_width()
    lines = visible(text).split("\n")
    sys.stdout.write("\n".join(lines if room is None else (wrapped(line, room) for line in lines)) + "\n")


def say_now(what: str) -> None:
    """A line that begins with the time of day and is there at once, whoever reads it: for commands that last."""
    say(f"{time.strftime('%H:%M:%S')}  {what}")
    sys.stdout.flush()


def screen_width() -> int | None:
    """How many columns stdout's terminal has; None where it is none, and lines are as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def hanging(prefix: str, text: str, room: int) -> str:
    """`prefix` and `text` in lines of at most `room` columns, but for words that are longer."""
    beside = room - _width(prefix)
    if _width(text) <= beside:
        return prefix + text
    longest = max(map(_width, text.split()), default=0)
    if beside >= max(NARROWEST, longest):
        return prefix + f"\n{' ' * _width(prefix)}".join(_wrap(text, beside))
    below = " " * BELOW
    return prefix.rstrip() + "".join(f"\n{below}{line}" for line in _wrap(text, room - BELOW))


def wrapped(line: str, room: int) -> str:
    """A line in lines of at most `room` columns, the later ones indented a little more than the first."""
    if _width(line) <= room:
        return line
    text = line.lstrip(" ")
    indent = " " * (len(line) - len(text))
    first, *rest = _wrap(text, room - len(indent))
    if not rest:
        return line
    rest = _wrap(" ".join(rest), room - len(indent) - 2)
    return f"\n{indent}  ".join([indent + first, *rest])


def _wrap(text: str, room: int) -> list[str]:
    """Lines of whole words, of which a style takes no room."""
    lines, line = list[str](), ""
    for word in re.split(r"(?<=\S) +", text):
        if line and _width(line) + 1 + _width(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def complain(message: str) -> None:
    """One line on stderr: what is wrong and the way out."""
    line = visible(f"esper: {' '.join(message.split())}")
    if sys.stderr.isatty():
        line = wrapped(line, shutil.get_terminal_size().columns)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:  # nobody reads it or nothing can: what was done and the exit code stay what they are
        silence(sys.stderr)


def complain_of(error: Exception) -> None:
    """The same of an error, and below it the place in the query that a person typed, where it has one."""
    complain(str(error))
    where = getattr(error, "where", "")
    if where:
        with suppress(OSError):
            sys.stderr.write("".join(f"{visible(line)}\n" for line in where.split("\n")))
            sys.stderr.flush()


def silence(stream: TextIO) -> None:
    """Let what is still to be written to a stream, at the interpreter's end too, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # a stream without a descriptor, as in tests
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say_json(value: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()


def say_json_rows(rows: Iterable[Any]) -> None:
    """One JSON list on one line, written as its items come."""
    sys.stdout.write("[")
    for i, row in enumerate(rows):
        sys.stdout.write(", " * (i > 0) + json_text(row))
    sys.stdout.write("]\n")
    sys.stdout.flush()


def json_text(value: Any) -> str:
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
        return visible(str(value).replace("\n", " ").replace("\t", " "))
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, default=plain)
    return str(plain(value))


def _width(text: str) -> int:
    """How wide a text is on the screen, its style not counted."""
    return len(_STYLE.sub("", text))


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = (), room: int | None = None
) -> str:
    """Rows in aligned columns under their headers, `right` naming the columns that end at their right edge.

    On a terminal (or in `room` columns) cells wrap between words; where not even the longest words fit beside each
    other, every row is a block of lines, one a column.
    """
    headers = [cell(header) for header in headers]
    texts, room = _texts(rows), screen_width() if room is None else room
    widths = _widths(texts, [len(header) for header in headers])
    for gap in (2, 1):
        fitting = _fitted(headers, texts, widths, room - gap * (len(widths) - 1)) if room is not None else widths
        if fitting is not None:
            return _rich_table(headers, texts, fitting, set(right), gap)
    assert room is not None
    names = [f"{header:<{max(map(len, headers))}}  " for header in headers]
    return "\n\n".join(
        "\n".join(hanging(styled(name, DIM), value, room) for name, value in zip(names, row, strict=True))
        for row in texts
    )


def _fitted(
    headers: Sequence[str], texts: Sequence[Sequence[str]], widths: Sequence[int], room: int
) -> list[int] | None:
    """The widths, the widest made narrower until all fit; None where a word would have to be broken for it."""
    least = [
        max(_width(word) for row in (headers, *texts) for word in row[column].split(" "))
        for column in range(len(headers))
    ]
    if sum(least) > room:
        return None
    found = list(widths)
    while sum(found) > room:
        widest = max(range(len(found)), key=lambda column: (found[column] > least[column], found[column]))
        found[widest] -= 1
    return found


def _rich_table(
    headers: Sequence[str], texts: Sequence[Sequence[str]], widths: Sequence[int], right: AbstractSet[int], gap: int
) -> str:
    from rich.console import Console  # noqa: PLC0415 - a wrong command line needs no table
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for column, (header, width) in enumerate(zip(headers, widths, strict=True)):
        shown.add_column(Text(header), width=width, justify="right" if column in right else "left")
    for row in texts:
        shown.add_row(*map(Text.from_ansi, row))
    console = Console(
        file=io.StringIO(),
        width=sum(widths) + gap * len(widths),
        color_system="standard" if colours_wanted() else None,
        force_terminal=colours_wanted(),
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def say_table(headers: Sequence[str], blocks: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Rows that come in blocks under their headers; a later block's columns are as wide as those before, or wider.

    A block that is wider than the terminal is shown as `table` shows it. Not by rich otherwise: 2,000 rows of ten
    columns took it 1.1 s, and this 0.02 s.
    """
    headers = [cell(header) for header in headers]
    widths, room, first = [len(header) for header in headers], screen_width(), True
    for block in blocks:
        texts = _texts(block)
        widths = _widths(texts, widths)
        if room is not None and sum(widths) + 2 * (len(widths) - 1) > room:
            sys.stdout.write(("" if first else "\n") + table(headers, block, room=room) + "\n")
        else:
            lines = [*([styled(_line(headers, widths), DIM)] if first else []), *(_line(row, widths) for row in texts)]
            sys.stdout.write("\n".join(lines) + "\n")
        first = False
    if first:
        sys.stdout.write(styled(_line(headers, widths), DIM) + "\n")


def _texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[cell(value) for value in row] for row in rows]


def _widths(texts: list[list[str]], least: Sequence[int]) -> list[int]:
    return [max(width, *(_width(row[i]) for row in texts), 0) for i, width in enumerate(least)]


def _line(values: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        value + " " * (width - _width(value)) for value, width in zip(values, widths, strict=True)
    ).rstrip()


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
