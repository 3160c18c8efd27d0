"""The network with what grew where: its places from the input down, and beside each the seeds that germinated there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from projections.pictures.svg import CHARACTER, Picture, escape, number, picture, rule, words

TOP, GAP, PAD, LINE = 44, 14, 8, 16
BESIDE: int = 640
"""Pixels from which seeds stand beside their place and not below it."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What became of one seed: its name, what is to be read of it, the stage that colours it.

    `joined` says that it is part of the network; what is not is drawn with a broken line.
    """

    name: str
    text: str
    stage: str
    joined: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of the network at which something can grow: its name, what it gives, and the seeds of it."""

    name: str
    gives: str
    grown: Sequence[Growth]


def network(
    places: Sequence[Place],
    *,
    first: str,
    last: str,
    title: str = "The network, and what grew where",
    width: float = 1040,
) -> Picture:
    """The places from top to bottom between what stands `first` and `last`; width decides where seeds are drawn."""
    beside = width >= BESIDE
    own = 24 + CHARACTER * 1.1 * max([len(text) for place in places for text in (place.name, place.gives)], default=0)
    own = max(110.0, min(own, width * (0.35 if beside else 0.8)))
    left = 12.0
    seeds_at = left + own + 48 if beside else left + 36
    room = width - seeds_at - 12
    middle = left + own / 2 if beside else left + 18
    parts = [words(12, 18, title, kind="strong"), words(left, TOP - 2, first)]
    y = TOP + 12.0
    spans: list[tuple[float, float]] = [(TOP + 2, TOP + 2)]
    for place in places:
        boxes = [_Box.of(growth, room) for growth in place.grown]
        stacked = sum(box.height for box in boxes) + GAP * max(0, len(boxes) - 1) if boxes else 0.0
        height = 2 * PAD + 2 * LINE
        high = max(height, stacked) if beside else height
        parts += _layer(place, left, y, own, height)
        spans.append((y, y + height))
        at = y if beside else y + height + GAP / 2
        for box in boxes:
            join = at + min(box.height / 2, height / 2)
            kind = "axis" if box.growth.joined else "mark"
            hangs = beside and at > y  # below the first of its place
            start = seeds_at - 24 if hangs else left + own if beside else middle
            parts.append(rule(start, join, seeds_at, join, kind))
            if hangs:
                parts.append(rule(start, y + height / 2, start, join, kind))
            parts += box.draw(seeds_at, at)
            at += box.height + GAP / (1 if beside else 2)
        y += high + GAP if beside else height + GAP + (stacked + GAP if boxes else 0)
    spans.append((y, y))
    lines = [rule(middle, upper[1], middle, lower[0], "axis") for upper, lower in pairwise(spans)]
    parts.append(words(left, y + 12, last))
    return picture(width, y + 24, title, _told(places, first, last), [*lines, *parts])


@dataclass(frozen=True, slots=True)
class _Box:
    """A seed as it is drawn: its lines, and how large they make it."""

    growth: Growth
    lines: Sequence[str]
    width: float

    @classmethod
    def of(cls, growth: Growth, room: float) -> _Box:
        columns = max(12, int((room - 2 * PAD - 12) / CHARACTER))
        lines = [line for text in (growth.name, growth.text) for line in textwrap.wrap(text, columns) or [""]]
        wide = 2 * PAD + 12 + CHARACTER * 1.08 * max(len(line) for line in lines)
        return cls(growth, lines, min(room, wide))

    @property
    def height(self) -> float:
        return 2 * PAD + LINE * len(self.lines)

    def draw(self, x: float, y: float) -> Iterator[str]:
        growth = self.growth
        dashes = "" if growth.joined else ' stroke-dasharray="4 3"'
        stage = growth.stage.lower()
        yield (
            f'<g><rect x="{number(x)}" y="{number(y)}" width="{number(self.width)}" height="{number(self.height)}" '
            f'rx="5" fill="var(--paper)" stroke="var(--{stage})" stroke-width="1.5"{dashes}/>'
            f'<rect x="{number(x)}" y="{number(y)}" width="6" height="{number(self.height)}" rx="2" '
            f'fill="var(--{stage})"/>'
            f"<title>{escape(f'{growth.name}: {growth.text}')}</title></g>"
        )
        for row, line in enumerate(self.lines):
            yield words(x + PAD + 8, y + PAD + LINE * row + 12, line, kind="" if row else "strong")


def _layer(place: Place, x: float, y: float, width: float, height: float) -> Iterator[str]:
    yield (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="5" '
        f'fill="var(--dormant)"><title>{escape(f"{place.name} {place.gives}")}</title></rect>'
    )
    most = int((width - 12) / CHARACTER)
    yield words(x + PAD, y + PAD + 12, _short(place.name, most), kind="strong")
    yield words(x + PAD, y + PAD + LINE + 12, _short(place.gives, most))


def _short(text: str, most: int) -> str:
    """A text that is too long with its end, which says most of a dotted name."""
    return text if len(text) <= most else "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - most + 1 :]


def _told(places: Sequence[Place], first: str, last: str) -> str:
    parts = []
    for place in places:
        grown = ", ".join(f"{each.name} ({each.text})" for each in place.grown) or "nothing grew"
        parts.append(f"{place.name}, {place.gives}: {grown}.")
    return " ".join([f"From {first}.", *parts, f"To {last}."])
