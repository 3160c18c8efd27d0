"""What a network is measured by: a name, a unit and a direction, and one value of it, as a person reads them.

A task says what it means (`Task(metrics=...)`); the first metric is the main one, of which summary and report speak.
Free of torch: the functions are a person's own, and only what measures calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from esper.errors import InvalidInput

if TYPE_CHECKING:
    from contracts.leyline.v1.event_pb2 import EpochCompleted, RunFinished

PERCENT: Final = "%"
LONGEST_NAME: Final = 40


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that a network is measured by, for example `Metric("mae", "mm", lower_is_better=True, per_sample=f)`.

    `per_sample(outputs, targets)` gives one figure for each of N samples, shape (N,), and the metric is their mean;
    `per_set(outputs, targets)` gives the figure of a whole set at once, for what is no mean (it is given all outputs,
    which are kept for it). The value is that times `scale`: a share of 0 to 1 is 100 times as much in per cent, and an
    error of targets that were divided by 12.5 mm is 12.5 times as much in mm. A metric without either function is
    declared only: whoever measures gives its value by its name.

    Raises InvalidInput for a name or unit that cannot be one line of a table, both functions, and a scale that is no
    positive number.
    """

    name: str
    unit: str = ""
    lower_is_better: bool = field(kw_only=True)
    per_sample: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    per_set: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("unit", self.unit)):
            if not isinstance(text, str) or len(text) > LONGEST_NAME or not (text + "x").isprintable():
                raise InvalidInput(f"metric {self.name!r}: its {what} must be one line of {LONGEST_NAME} characters")
        if not self.name.strip():
            raise InvalidInput("a metric needs a name, such as 'mae'")
        if not isinstance(self.lower_is_better, bool):
            raise InvalidInput(
                f"metric {self.name}: lower_is_better is {self.lower_is_better!r}; say True for an error, False for a "
                "score"
            )
        if self.per_sample is not None and self.per_set is not None:
            raise InvalidInput(f"metric {self.name}: give per_sample or per_set, not both")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InvalidInput(f"metric {self.name}: scale is {self.scale}; it must be a positive number")

    @property
    def computed(self) -> bool:
        """Whether it brings the function that computes it."""
        return self.per_sample is not None or self.per_set is not None

    def of(self, value: float) -> Figure:
        """A value of it, which is in its unit."""
        return Figure(self.name, self.unit, self.lower_is_better, value)


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's value on a set of samples, in its unit."""

    name: str
    unit: str
    lower_is_better: bool
    value: float

    @property
    def known(self) -> bool:
        """Whether it is a finite number."""
        return math.isfinite(self.value)

    @property
    def text(self) -> str:
        """The value with its unit: `96.98 %`, `0.1234 mm`."""
        return in_unit(number(self.value, self.unit), self.unit) if self.known else "unknown"

    @property
    def bare(self) -> str:
        """The value alone, for a table whose heading has the unit."""
        return number(self.value, self.unit) if self.known else "-"

    @property
    def direction(self) -> str:
        """`lower is better` or `higher is better`."""
        return direction(lower_is_better=self.lower_is_better)

    @property
    def label(self) -> str:
        """What stands beside it in a table: `accuracy (%)`, `mae (mm, lower is better)`."""
        parts = [self.unit, self.direction if self.lower_is_better else ""]
        told = ", ".join(filter(None, parts))
        return f"{self.name} ({told})" if told else self.name

    @property
    def phrase(self) -> str:
        """Name and value in one: `accuracy 96.98 %`."""
        return f"{self.name} {self.text}"

    def gain_over(self, other: float) -> float:
        """How much better this is than `other`, in the unit: above 0 is better, whichever the direction."""
        return other - self.value if self.lower_is_better else self.value - other

    def gain_text(self, other: float) -> str:
        """The gain with its sign: `+4.52 points` of per cent, `+0.12 mm`."""
        return signed_gain(self.gain_over(other), self.unit)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "unit": self.unit, "direction": self.direction, "value": self.value}


def direction(*, lower_is_better: bool) -> str:
    """The words for a metric's direction."""
    return "lower is better" if lower_is_better else "higher is better"


def number(value: float, unit: str = "") -> str:
    """A value as people read it: two decimals of per cent, else four digits or so."""
    size = abs(value)
    if unit == PERCENT:
        return f"{value:.2f}"
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.3g}"
    decimals = 4 if size < 10 else 3 if size < 100 else 2 if size < 1000 else 1
    return f"{value:.{decimals}f}"


def in_unit(text: str, unit: str) -> str:
    """The text of a value with its unit behind it."""
    return f"{text} {unit}" if unit else text


def signed_gain(gain: float, unit: str) -> str:
    """A gain with its sign; one of per cent is in points."""
    sign = "+" if gain >= 0 else "-"
    return in_unit(sign + number(abs(gain), unit), "points" if unit == PERCENT else unit)


def check_metrics(metrics: Sequence[Metric], owner: str) -> None:
    """Raise InvalidInput where two of an owner's metrics have one name."""
    names = [metric.name for metric in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{owner}: two metrics are called {twice}; give each a name of its own")


# -------------------------------------------------------------------------------------------------- of recorded events


def accuracy_of(share: float) -> Figure:
    """A recorded share of 0 to 1 as the accuracy that it is; whatever else a person's task put there stays a number."""
    if share < 0 or share > 1:
        return Figure("accuracy", "", lower_is_better=False, value=share)
    return Figure("accuracy", PERCENT, lower_is_better=False, value=100.0 * share)


def figures_of_probe(epoch: EpochCompleted) -> list[Figure]:
    """What an epoch's probe came to, the main metric first; a record without metrics measured accuracy."""
    return _told(epoch.metrics) or [accuracy_of(epoch.state.validation_accuracy)]


def figures_of_test(end: RunFinished) -> list[Figure]:
    """What the test at a run's end came to, the main metric first, as above; unknown where it was not tested."""
    return _told(end.metrics) or [accuracy_of(end.test_accuracy)]


def _told(values: Any) -> list[Figure]:
    return [Figure(each.name, each.unit, each.lower_is_better, each.value) for each in values]
