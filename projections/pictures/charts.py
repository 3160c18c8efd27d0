"""The kinds of picture, as SVG: bars, lanes over time, and lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from projections.pictures.svg import (
    CHARACTER,
    Frame,
    Picture,
    Scale,
    escape,
    number,
    picture,
    rule,
    short,
    ticks,
    words,
)

ROW, BAR_TOP, BAR_BOTTOM = 28, 40, 40


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
    bottom = BAR_TOP + ROW * len(rows)
    parts = [words(12, 18, title, kind="strong")]
    for value in ticks(across.low, across.high, 6):
        parts.append(rule(across(value), BAR_TOP - 6, across(value), bottom, "grid"))
        parts.append(words(across(value), bottom + 16, form(value), anchor="middle"))
    for place, row in enumerate(rows):
        parts += _bar(row, BAR_TOP + ROW * place, across, width, form)
    parts += [
        rule(across(0), BAR_TOP - 6, across(0), bottom, "axis"),
        words(across.end, bottom + 32, x_name, anchor="end"),
    ]
    told = "; ".join(f"{row.name} {form(row.value)} {row.note}".strip() for row in rows) + "."
    return picture(width, bottom + BAR_BOTTOM, title, told, parts)


def _bar(row: Bar, y: float, across: Scale, width: float, form: Callable[[float], str]) -> Iterator[str]:
    start, end = sorted((across(0), across(row.value)))
    wide = max(end - start, 1)
    colour = "good" if row.value >= 0 else "bad"
    yield words(across.start - 8, y + 17, row.name, anchor="end")
    yield (
        f'<rect x="{number(start)}" y="{number(y + 4)}" width="{number(wide)}" height="{ROW - 10}" rx="2" '
        f'fill="var(--{colour})"><title>{escape(f"{row.name}: {form(row.value)} {row.note}")}</title></rect>'
    )
    if row.low is not None and row.high is not None:
        middle = y + 4 + (ROW - 10) / 2
        yield rule(across(row.low), middle, across(row.high), middle, "axis")
        yield rule(across(row.low), middle - 4, across(row.low), middle + 4, "axis")
        yield rule(across(row.high), middle - 4, across(row.high), middle + 4, "axis")
    yield words(width - 8, y + 17, row.note, anchor="end")


STAGES: Final = (
    "GERMINATED",
    "TRAINING",
    "BLENDING",
    "SHADOWING",
    "PROBATIONARY",
    "FOSSILIZED",
    "CULLED",
    "EMBARGOED",
    "RESETTING",
)


"""What the key explains; a dormant seed is an empty lane."""


THIN: Final = 3.0


"""A stay shorter than this many pixels is drawn so wide."""


MANY: Final = 200
"""Blocks and marks beyond which one a pixel is drawn."""
STAYS_TOLD: Final = 40
"""Stays of a lane that its description lists."""
LANE, GAP, LANE_TOP, LANE_BOTTOM = 30, 12, 34, 40


@dataclass(frozen=True, slots=True)
class Stay:
    """How long a seed was in a stage, in epochs, and what is to be read of it."""

    stage: str
    begin: float
    end: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A seed by its name, what stands below it, and its stays in their order."""

    name: str
    below: str
    stays: Sequence[Stay]


def swimlane(
    lanes: Sequence[Lane],
    *,
    epochs: float,
    title: str = "Seeds by stage",
    width: float = 1040,
    marks: Sequence[Mark] = (),
) -> Picture:
    """The lanes over `epochs` epochs; `marks` are moments at which the run went back to an earlier state, and why."""
    left = 20 + CHARACTER * max([len(part) for lane in lanes for part in (lane.name, lane.below)], default=0)
    across = Scale(0, max(epochs, 1), left, width - 14)
    bottom = LANE_TOP + len(lanes) * (LANE + GAP)
    used = [stage for stage in STAGES if any(stay.stage == stage for lane in lanes for stay in lane.stays)]
    key, key_height = _key(used, left, bottom + LANE_BOTTOM, width)
    parts = [words(12, 18, title, kind="strong"), *_axis(across, bottom)]
    for place, lane in enumerate(lanes):
        parts += _lane(lane, LANE_TOP + place * (LANE + GAP), across)
    if len(marks) > MANY:
        in_order = sorted(marks, key=lambda mark: mark.x)
        marks = [next(found) for _, found in groupby(in_order, key=lambda mark: int(across(mark.x)))]
    for mark in marks:
        x = across(mark.x)
        parts.append(f"<g>{rule(x, LANE_TOP - 4, x, bottom, 'mark')}<title>{escape(mark.text)}</title></g>")
    parts += _mark_words(marks, across)
    told = " ".join(f"{lane.name} {lane.below}: {_lanes_told(lane)}." for lane in lanes)
    frame = Frame(across.start, across.end, LANE_TOP, bottom, across.low, across.high)
    return picture(width, bottom + LANE_BOTTOM + key_height, title, told, [*parts, *key], frame=frame)


def _mark_words(marks: Sequence[Mark], across: Scale) -> Iterator[str]:
    """The words of marks before their lines, of those that stand in no other's way; the line says the same."""
    taken = across.start - LEFT
    for mark in sorted(marks, key=lambda mark: mark.x):
        end = across(mark.x) - 3
        begin = end - len(mark.text) * CHARACTER
        if begin > taken:
            taken = end
            yield words(end, LANE_TOP - 6, mark.text, anchor="end")


def _axis(across: Scale, bottom: float) -> Iterator[str]:
    for value in ticks(0, across.high, 8, least=1):
        yield rule(across(value), LANE_TOP - 2, across(value), bottom, "grid")
        yield words(across(value), bottom + 14, short(value), anchor="middle")
    yield words(across.end, bottom + 30, "epoch", anchor="end")


def _lane(lane: Lane, y: float, across: Scale) -> Iterator[str]:
    yield words(12, y + 14, lane.name, kind="strong")
    yield words(12, y + 28, lane.below)
    yield _block(across.start, y, across.end - across.start, "dormant", f"{lane.name} is dormant")
    for stay in sorted(
        _apart(lane.stays, across), key=lambda stay: across(stay.end) - across(stay.begin) < THIN
    ):  # what is thin, on top
        if stay.stage != "DORMANT":
            x, end = across(stay.begin), across(stay.end)
            wide = max(end - x, THIN)
            name = stay.stage.lower()
            told = f"{lane.name} {stay.stage}, epochs {short(stay.begin)} to {short(stay.end)}"
            yield _block(x, y, wide, name, f"{told}: {stay.text}" if stay.text else told)
            if len(stay.stage) * 7.2 + 4 < wide:
                yield words(x + wide / 2, y + LANE / 2 + 4, stay.stage.title(), anchor="middle", kind=f"on-lane {name}")


def _apart(stays: Sequence[Stay], across: Scale) -> Iterator[Stay]:
    """The stays to draw: of very many, of those that begin in one pixel the longest, or they would be megabytes."""
    lived = [stay for stay in stays if stay.stage != "DORMANT"]
    if len(lived) <= MANY:
        yield from lived
        return
    for _, found in groupby(lived, key=lambda stay: int(across(stay.begin))):
        yield max(found, key=lambda stay: stay.end - stay.begin)


def _block(x: float, y: float, width: float, stage: str, told: str) -> str:
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{LANE}" rx="3" '
        f'fill="var(--{stage})"><title>{escape(told)}</title></rect>'
    )


def _key(stages: Sequence[str], left: float, y: float, width: float) -> tuple[list[str], float]:
    """The key, in as many rows as it needs, and their height."""
    parts, x, row = [], 12.0, 0
    for stage in stages:
        room = 24 + len(stage) * (CHARACTER + 0.6)
        if x + room > width and x > left:
            x, row = 12.0, row + 1
        at = y + 20 * row
        place = f'x="{number(x)}" y="{number(at)}"'
        parts.append(f'<rect {place} width="12" height="12" rx="2" fill="var(--{stage.lower()})"/>')
        parts.append(words(x + 17, at + 10.5, stage.title()))
        x += room
    return parts, 20.0 * (row + 1) if stages else 0.0


def _lanes_told(lane: Lane) -> str:
    known = [stay for stay in lane.stays if stay.stage != "DORMANT"]
    told = [f"{stay.stage} from epoch {short(stay.begin)}" for stay in known[:STAYS_TOLD]]
    told += [f"and {len(known) - STAYS_TOLD:,} more stays"] if len(known) > STAYS_TOLD else []
    return ", ".join(told) or "never germinated"


LEFT, RIGHT, TOP, BOTTOM = 52, 14, 50, 40


LEGEND_ROW: Final = 16
MARKS: Final = 34


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
    legend, legend_height = _legend(series, width)
    height += legend_height
    up = Scale(low, high, height - BOTTOM, TOP + legend_height + (MARKS if marks else 0))
    parts = [words(12, 18, title, kind="strong"), *legend, *_axes(across, up, x_name, form, width)]
    parts += _marks(marks, across, up)
    parts += [_curve(each, place, across, up, form) for place, each in enumerate(series)]
    frame = Frame(across.start, across.end, up.end, up.start, across.low, across.high)
    return picture(width, height, title, description or _told(series, form), parts, frame=frame)


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


def _legend(series: Sequence[Series], width: float) -> tuple[list[str], float]:
    """The names of the curves, in as many rows as they need, and how much higher than one row they are."""
    parts, x, y = [], 12.0, 32.0
    for place, each in enumerate(series):
        room = 28 + len(each.name) * CHARACTER
        if x + room > width and x > 12.0:
            x, y = 12.0, y + LEGEND_ROW
        dashed = " dashed" if place == DASHED else ""
        colour = f"var(--c{place % COLOURS})"
        ends = f'x1="{number(x)}" y1="{number(y)}" x2="{number(x + 22)}" y2="{number(y)}"'
        parts += [f'<line class="line{dashed}" stroke="{colour}" {ends}/>', words(x + 28, y + 4, each.name)]
        x += room + 16
    return parts, y - 32.0


def _marks(marks: Sequence[Mark], across: Scale, up: Scale) -> Iterator[str]:
    """Dotted lines with their words, in one of two rows and on the side where there is room; else the line alone."""
    taken: list[tuple[int, float, float]] = []
    ordered = sorted(marks, key=lambda mark: mark.x)
    if len(ordered) > MANY:
        ordered = [next(found) for _, found in groupby(ordered, key=lambda mark: int(across(mark.x)))]
    for mark in ordered:
        x, room = across(mark.x), len(mark.text) * CHARACTER + 4
        places = [(row, "start", x + 3, x + 3 + room) for row in (0, 1)]
        places += [(row, "end", x - 3 - room, x - 3) for row in (0, 1)]
        free = next((each for each in places if _is_free(each[0], each[2], each[3], taken, across)), None)
        top = up.end - 4 if free is None else up.end - 21 + 15 * free[0]
        yield f"<g>{rule(x, top, x, up.start, 'mark')}<title>{escape(mark.text)}</title>"
        if free is not None:
            row, anchor, begin, end = free
            taken.append((row, begin, end))
            yield words(begin if anchor == "start" else end, up.end - 23 + 15 * row, mark.text, anchor=anchor)
        yield "</g>"


def _is_free(row: int, begin: float, end: float, taken: Sequence[tuple[int, float, float]], across: Scale) -> bool:
    inside = begin >= across.start - LEFT and end <= across.end + RIGHT
    return inside and not any(at == row and begin < right and end > left for at, left, right in taken)


def _curve(series: Series, place: int, across: Scale, up: Scale, form: Callable[[float], str]) -> str:
    path, pen_up, before = [], True, 0.0
    for x, y in _thinned(series.points, across):
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
    return f'<path class="line{dashed}" stroke="{colour}" d="{"".join(path)}"><title>{told}</title></path>'


def _thinned(points: Sequence[tuple[float, float | None]], across: Scale) -> Iterator[tuple[float, float | None]]:
    """The points to draw: of many in one column of pixels its first, lowest, highest and last, and one gap."""
    if len(points) <= 4 * (across.end - across.start):
        yield from points
        return
    for _, found in groupby(points, key=lambda point: int(across(point[0]))):
        column = list(found)
        known = [(y, place) for place, (_, y) in enumerate(column) if _drawable(y)]
        kept = {0, len(column) - 1} | ({min(known)[1], max(known)[1]} if known else set())
        kept |= {next((place for place, (_, y) in enumerate(column) if not _drawable(y)), 0)}
        yield from (column[place] for place in sorted(kept))


def _last(series: Series, form: Callable[[float], str]) -> str:
    last = next(((x, y) for x, y in reversed(series.points) if _drawable(y)), None)
    return series.name if last is None or last[1] is None else f"{series.name}: {form(last[1])} at {short(last[0])}"


def _told(series: Sequence[Series], form: Callable[[float], str]) -> str:
    return "At the end, " + "; ".join(_last(each, form) for each in series) + "."
