"""What all pictures share: escaping, scales with round ticks, and the frame that says in words what is shown."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape as _escape
from importlib import resources
from typing import Final

CHARACTER: Final = 7.2
"""The width of a character at the pictures' 12 pixels, in the widest of the fonts that they may be shown in."""


@cache
def style() -> str:
    """The pictures' CSS, light and dark."""
    return resources.files("projections.pictures").joinpath("style.css").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a picture's x axis lies in it, in pixels, and the values at its ends: a page can point at a moment."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Picture:
    """One SVG element; a notebook shows it as it stands, a page that has `style()` once takes `svg`.

    It has no style of its own elements, so that a page which allows none (a Content Security Policy) shows it too.
    """

    svg: str
    frame: Frame | None = None

    def _repr_html_(self) -> str:
        return f"<style>{style()}</style>{self.svg}"


def escape(text: str) -> str:
    """Text that is safe in SVG and in attributes."""
    return _escape(text, quote=True)


def number(value: float) -> str:
    """A coordinate, as short as a hundredth of a pixel allows."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def picture(
    width: float, height: float, title: str, description: str, parts: Iterable[str], *, frame: Frame | None = None
) -> Picture:
    """An SVG with its title and description, which a screen reader says instead of it."""
    body = "".join(parts)
    key = hashlib.sha256(f"{title}{description}{body}".encode()).hexdigest()[:10]
    return Picture(
        f'<svg class="esper-picture" role="img" aria-labelledby="t{key} d{key}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}">'
        f'<title id="t{key}">{escape(title)}</title><desc id="d{key}">{escape(description)}</desc>{body}</svg>',
        frame,
    )


def words(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", turned: bool = False) -> str:
    """A line of text whose baseline begins, ends or is centred at a point."""
    turn = f' transform="rotate(-90 {number(x)} {number(y)})"' if turned else ""
    styled = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"{styled}{turn}>{escape(text)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def ticks(low: float, high: float, about: int, least: float = 0.0) -> list[float]:
    """Round numbers between two values, about so many and at least so far apart."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = max(span / max(about, 1), least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A figure as an axis shows it: 0.25, 40, 12k, 3.4M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.4g}"
