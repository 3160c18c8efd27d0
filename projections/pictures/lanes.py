"""Seeds as swimlanes: which stage each was in, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from projections.pictures.svg import CHARACTER, Picture, Scale, escape, number, picture, rule, short, ticks, words

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
LANE, GAP, TOP, BOTTOM = 30, 12, 34, 40


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
    marks: Sequence[float] = (),
) -> Picture:
    """The lanes over `epochs` epochs; `marks` are moments at which the run went back to an earlier state."""
    left = 20 + CHARACTER * max([len(part) for lane in lanes for part in (lane.name, lane.below)], default=0)
    across = Scale(0, max(epochs, 1), left, width - 14)
    bottom = TOP + len(lanes) * (LANE + GAP)
    used = [stage for stage in STAGES if any(stay.stage == stage for lane in lanes for stay in lane.stays)]
    key, key_height = _key(used, left, bottom + BOTTOM, width)
    parts = [words(12, 18, title, kind="strong"), *_axis(across, bottom)]
    for place, lane in enumerate(lanes):
        parts += _lane(lane, TOP + place * (LANE + GAP), across)
    parts += [f"<g>{rule(across(x), TOP - 4, across(x), bottom, 'mark')}<title>rolled back</title></g>" for x in marks]
    parts += [words(across(x) - 3, TOP - 6, "rolled back", anchor="end") for x in marks]
    told = " ".join(f"{lane.name} {lane.below}: {_told(lane)}." for lane in lanes)
    return picture(width, bottom + BOTTOM + key_height, title, told, [*parts, *key])


def _axis(across: Scale, bottom: float) -> Iterator[str]:
    for value in ticks(0, across.high, 8, least=1):
        yield rule(across(value), TOP - 2, across(value), bottom, "grid")
        yield words(across(value), bottom + 14, short(value), anchor="middle")
    yield words(across.end, bottom + 30, "epoch", anchor="end")


def _lane(lane: Lane, y: float, across: Scale) -> Iterator[str]:
    yield words(12, y + 14, lane.name, kind="strong")
    yield words(12, y + 28, lane.below)
    yield _block(across.start, y, across.end - across.start, "dormant", f"{lane.name} is dormant")
    for stay in sorted(
        lane.stays, key=lambda stay: across(stay.end) - across(stay.begin) < THIN
    ):  # what is thin, on top
        if stay.stage != "DORMANT":
            x, end = across(stay.begin), across(stay.end)
            wide = max(end - x, THIN)
            name = stay.stage.lower()
            told = f"{lane.name} {stay.stage}, epochs {short(stay.begin)} to {short(stay.end)}"
            yield _block(x, y, wide, name, f"{told}: {stay.text}" if stay.text else told)
            if len(stay.stage) * 7.2 + 4 < wide:
                yield words(x + wide / 2, y + LANE / 2 + 4, stay.stage.title(), anchor="middle", kind=f"on-lane {name}")


def _block(x: float, y: float, width: float, stage: str, told: str) -> str:
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{LANE}" rx="3" '
        f'style="fill: var(--{stage})"><title>{escape(told)}</title></rect>'
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
        parts.append(f'<rect {place} width="12" height="12" rx="2" style="fill: var(--{stage.lower()})"/>')
        parts.append(words(x + 17, at + 10.5, stage.title()))
        x += room
    return parts, 20.0 * (row + 1) if stages else 0.0


def _told(lane: Lane) -> str:
    known = [stay for stay in lane.stays if stay.stage != "DORMANT"]
    return ", ".join(f"{stay.stage} from epoch {short(stay.begin)}" for stay in known) or "never germinated"
