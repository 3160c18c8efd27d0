"""Figures side by side, each with its interval where it has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from projections.pictures.svg import CHARACTER, Picture, Scale, escape, number, picture, rule, short, ticks, words

ROW, TOP, BOTTOM = 28, 40, 40


@dataclass(frozen=True, slots=True)
class Bar:
    """A named figure, the ends of its interval where it has one, and what stands behind it."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


def bars(
    rows: Sequence[Bar], *, title: str, x_name: str, form: Callable[[float], str] = short, width: float = 720
) -> Picture:
    """Horizontal bars from zero, below or above it."""
    left = 20 + CHARACTER * max([len(row.name) for row in rows], default=0)
    right = 12 + CHARACTER * max([len(row.note) for row in rows], default=0)
    ends = [0.0, *(end for row in rows for end in (row.value, row.low, row.high) if end is not None)]
    room = (max(ends) - min(ends)) * 0.04 or 1.0
    across = Scale(min(ends) - (room if min(ends) < 0 else 0), max(ends) + room, left, width - right)
    bottom = TOP + ROW * len(rows)
    parts = [words(12, 18, title, kind="strong")]
    for value in ticks(across.low, across.high, 6):
        parts.append(rule(across(value), TOP - 6, across(value), bottom, "grid"))
        parts.append(words(across(value), bottom + 16, form(value), anchor="middle"))
    for place, row in enumerate(rows):
        parts += _bar(row, TOP + ROW * place, across, width, form)
    parts += [rule(across(0), TOP - 6, across(0), bottom, "axis"), words(across.end, bottom + 32, x_name, anchor="end")]
    told = "; ".join(f"{row.name} {form(row.value)} {row.note}".strip() for row in rows) + "."
    return picture(width, bottom + BOTTOM, title, told, parts)


def _bar(row: Bar, y: float, across: Scale, width: float, form: Callable[[float], str]) -> Iterator[str]:
    start, end = sorted((across(0), across(row.value)))
    wide = max(end - start, 1)
    colour = "good" if row.value >= 0 else "bad"
    yield words(across.start - 8, y + 17, row.name, anchor="end")
    yield (
        f'<rect x="{number(start)}" y="{number(y + 4)}" width="{number(wide)}" height="{ROW - 10}" rx="2" '
        f'style="fill: var(--{colour})"><title>{escape(f"{row.name}: {form(row.value)} {row.note}")}</title></rect>'
    )
    if row.low is not None and row.high is not None:
        middle = y + 4 + (ROW - 10) / 2
        yield rule(across(row.low), middle, across(row.high), middle, "axis")
        yield rule(across(row.low), middle - 4, across(row.low), middle + 4, "axis")
        yield rule(across(row.high), middle - 4, across(row.high), middle + 4, "axis")
    yield words(width - 8, y + 17, row.note, anchor="end")
