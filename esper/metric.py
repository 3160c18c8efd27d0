"""What a network is measured by: a name, a unit and a direction, and one value of it, as a person reads them.

A task says what it means (`Task(metrics=...)`); the first metric is the main one, of which summary and report speak.
Free of torch: the functions are a person's own, and only what measures calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from esper.errors import InvalidInput

if TYPE_CHECKING:
    from contracts.leyline.v1.event_pb2 import EpochCompleted, RunFinished

PERCENT: Final = "%"
LOWER_IS_BETTER: Final = "lower is better"
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

    def of(self, value: float, stderr: float | None = None) -> Figure:
        """A value of it, in its unit, with its standard error where that is known."""
        return Figure(self.name, self.unit, self.lower_is_better, value, stderr)


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's value on a set of samples, in its unit; `stderr` is the standard error of one that is a mean."""

    name: str
    unit: str
    lower_is_better: bool
    value: float
    stderr: float | None = None

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
        return self._labelled(self.name)

    def label_on(self, samples: str) -> str:
        """What stands above it: `Accuracy on the test set (%)`."""
        return self._labelled(f"{self.name[:1].upper()}{self.name[1:]} on the {samples}")

    def _labelled(self, text: str) -> str:
        told = ", ".join(filter(None, (self.unit, self.direction if self.lower_is_better else "")))
        return f"{text} ({told})" if told else text

    def is_like(self, other: Figure) -> bool:
        """Whether both are of the same metric."""
        return (self.name, self.unit) == (other.name, other.unit)

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
        return {**self.metric_dict(), "value": self.value, "stderr": self.stderr}

    def metric_dict(self) -> dict[str, str]:
        """What it is a value of, for JSON."""
        return {"name": self.name, "unit": self.unit, "direction": self.direction}


def direction(*, lower_is_better: bool) -> str:
    """The words for a metric's direction."""
    return LOWER_IS_BETTER if lower_is_better else "higher is better"


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


def difference_text(size: float, unit: str) -> str:
    """How far two values are apart; those in per cent are some points apart."""
    return in_unit(number(size, unit), "points" if unit == PERCENT else unit)


def signed_gain(gain: float, unit: str) -> str:
    """A gain with its sign."""
    return ("+" if gain >= 0 else "-") + difference_text(abs(gain), unit)


def check_metrics(metrics: Sequence[Metric], owner: str) -> None:
    """Raise InvalidInput where two of an owner's metrics have one name."""
    names = [metric.name for metric in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{owner}: two metrics are called {twice}; give each a name of its own")


# --------------------------------------------------------------------------------------------- of what is recorded


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


def figure_of_row(row: Mapping[str, Any], on: str = "test") -> Figure | None:
    """The main metric of a row of the view `runs` on a set, `test` or `probe`; None where that was not measured."""
    value = row[f"{on}_metric"]
    lower = row["metric_direction"] == LOWER_IS_BETTER
    return None if value is None else Figure(row["metric"], row["metric_unit"], lower, value)


def figures_of_rows(values: Sequence[Mapping[str, Any]] | None, accuracy: float | None) -> list[Figure]:
    """What a column `metrics` holds, or the accuracy, a share of 0 to 1, where a record has none of them."""
    if values:
        names = ("name", "unit", "lower_is_better", "value", "stderr")
        return [Figure(*(each[name] for name in names)) for each in values]
    return [] if accuracy is None else [accuracy_of(accuracy)]


def _told(values: Any) -> list[Figure]:
    return [
        Figure(
            each.name,
            each.unit,
            each.lower_is_better,
            each.value,
            each.stderr if each.HasField("stderr") else None,
        )
        for each in values
    ]
