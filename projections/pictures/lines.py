"""Curves over epochs, with the moments at which something happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from projections.pictures.svg import CHARACTER, Picture, Scale, escape, number, picture, rule, short, ticks, words

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 50, 40
MARKS: Final = 30
"""Room above the frame for two rows of words about moments."""
COLOURS: Final = 6
DASHED: Final = 1
"""The second curve of a picture, mostly the control run, is dashed too: nobody needs to see colours."""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve by its name; points are (x, y), and a y that is no number is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: a dotted line across the picture with a few words at its top."""

    x: float
    text: str


def lines(
    series: Sequence[Series],
    *,
    title: str,
    description: str = "",
    x_name: str = "epoch",
    form: Callable[[float], str] = short,
    marks: Sequence[Mark] = (),
    span: tuple[float, float] | None = None,
    width: float = 390,
    height: float = 240,
) -> Picture:
    """Curves in one frame; `span` fixes what the y axis shows, `form` how its figures are written."""
    known = [(x, y) for each in series for x, y in each.points if _drawable(y)]
    if not known:
        nothing = words(width / 2, height / 2, "nothing was measured", anchor="middle")
        return picture(width, height, title, "Nothing was measured.", [words(LEFT, 18, title, kind="strong"), nothing])
    low, high = span or _room([y for _, y in known if y is not None])
    across = Scale(min(x for x, _ in known), max(x for x, _ in known), LEFT, width - RIGHT)
    up = Scale(low, high, height - BOTTOM, TOP + (MARKS if marks else 0))
    parts = [words(12, 18, title, kind="strong"), *_legend(series), *_axes(across, up, x_name, form, width)]
    parts += _marks(marks, across, up)
    parts += [_curve(each, place, across, up, form) for place, each in enumerate(series)]
    return picture(width, height, title, description or _told(series, form), parts)


def _drawable(y: float | None) -> bool:
    return y is not None and math.isfinite(y)


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < (high - low) * 0.5 else low - margin), high + margin


def _axes(across: Scale, up: Scale, x_name: str, form: Callable[[float], str], width: float) -> Iterator[str]:
    for value in ticks(up.low, up.high, 5):
        yield rule(LEFT, up(value), width - RIGHT, up(value), "grid")
        yield words(LEFT - 7, up(value) + 4, form(value), anchor="end")
    for value in ticks(across.low, across.high, 6, least=1):  # there are no halves of epochs
        yield rule(across(value), up.start, across(value), up.start + 4, "axis")
        yield words(across(value), up.start + 18, short(value), anchor="middle")
    yield rule(LEFT, up.start, width - RIGHT, up.start, "axis")
    yield words(width - RIGHT, up.start + 34, x_name, anchor="end")


def _legend(series: Sequence[Series]) -> Iterator[str]:
    x = 12.0
    for place, each in enumerate(series):
        dashed = " dashed" if place == DASHED else ""
        yield f'<line class="line{dashed}" style="stroke: var(--c{place % COLOURS})" x1="{number(x)}" y1="32" '
        yield f'x2="{number(x + 22)}" y2="32"/>'
        yield words(x + 28, 36, each.name)
        x += 28 + len(each.name) * CHARACTER + 16


def _marks(marks: Sequence[Mark], across: Scale, up: Scale) -> Iterator[str]:
    """Dotted lines with their words, in one of two rows and on the side where there is room; else the line alone."""
    taken: list[tuple[int, float, float]] = []
    for mark in sorted(marks, key=lambda mark: mark.x):
        x, room = across(mark.x), len(mark.text) * CHARACTER + 4
        places = [(row, "start", x + 3, x + 3 + room) for row in (0, 1)]
        places += [(row, "end", x - 3 - room, x - 3) for row in (0, 1)]
        free = next((each for each in places if _is_free(each[0], each[2], each[3], taken, across)), None)
        top = up.end - 4 if free is None else up.end - 17 + 13 * free[0]
        yield f"<g>{rule(x, top, x, up.start, 'mark')}<title>{escape(mark.text)}</title>"
        if free is not None:
            row, anchor, begin, end = free
            taken.append((row, begin, end))
            yield words(begin if anchor == "start" else end, up.end - 19 + 13 * row, mark.text, anchor=anchor)
        yield "</g>"


def _is_free(row: int, begin: float, end: float, taken: Sequence[tuple[int, float, float]], across: Scale) -> bool:
    inside = begin >= across.start - LEFT and end <= across.end + RIGHT
    return inside and not any(at == row and begin < right and end > left for at, left, right in taken)


def _curve(series: Series, place: int, across: Scale, up: Scale, form: Callable[[float], str]) -> str:
    path, pen_up, before = [], True, 0.0
    for x, y in series.points:
        if y is None or not math.isfinite(y):
            pen_up = True
            continue
        at_x, at_y = across(x), up(min(max(y, up.low), up.high))
        if not pen_up and series.steps:
            path.append(f"L{number(at_x)} {number(before)}")
        path.append(f"{'M' if pen_up else 'L'}{number(at_x)} {number(at_y)}")
        pen_up, before = False, at_y
    dashed = " dashed" if place == DASHED else ""
    colour = f"var(--c{place % COLOURS})"
    told = escape(_last(series, form))
    return f'<path class="line{dashed}" style="stroke: {colour}" d="{"".join(path)}"><title>{told}</title></path>'


def _last(series: Series, form: Callable[[float], str]) -> str:
    last = next(((x, y) for x, y in reversed(series.points) if _drawable(y)), None)
    return series.name if last is None or last[1] is None else f"{series.name}: {form(last[1])} at {short(last[0])}"


def _told(series: Sequence[Series], form: Callable[[float], str]) -> str:
    return "At the end, " + "; ".join(_last(each, form) for each in series) + "."
