"""Alerts as a pure fold of samples: each fires once, stays active, and clears on the first good sample.

A sample of another metric, or an event without the metric, changes nothing (R-NIS-9). Times come with the samples, and
`evolve_time` says that time has passed without one. What a busy machine adds to a duration fires nothing (ruling 36).
Source: R-NIS-5 to R-NIS-12; the thresholds are theirs in base units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts.leyline.v1 import event_pb2
from esper.nissa.measure import Sample

Condition = Literal["consecutive", "sustained", "increase"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert fires.

    `consecutive`: `samples` values in a row above `threshold`. `sustained`: every value above `threshold` for
    `window_s`, whether or not a sample comes at its end. `increase`: a running total grew by `threshold` at least
    within `window_s`; once it has fired, a sample without growth is a good one. A total that falls has begun anew.
    `routes` are the channels that a person is reached by.
    """

    name: str
    metric: str
    condition: Condition
    threshold: float
    description: str
    suggested_action: str
    routes: tuple[str, ...]
    samples: int = 1
    window_s: float = 0.0


RULES: Final = (
    Rule(
        "training_latency_high",
        "esper_tolaria_hook_own_seconds",
        "consecutive",
        0.018,
        "The epoch hook took more than 18 ms for three epochs, and no other process of the machine was why",
        "Put Tamiyo into conservative mode; look at the decider's log and at the disk of the log",
        ("pagerduty", "slack"),
        samples=3,
    ),
    Rule(
        "kasmina_isolation_violation",
        "esper_kasmina_isolation_violations",
        "increase",
        3.0,
        "A seed leaked into the host three times or more within five minutes",
        "Cull the seed and wait for zero",
        ("pagerduty",),
        window_s=300.0,
    ),
    Rule(
        "oona_queue_depth",
        "esper_oona_queue_depth",
        "sustained",
        4_000.0,
        "More than 4,000 events wait for the log for two minutes",
        "Look at the broker's disk and at esper_oona_publish_dropped_total; pause what is not needed",
        ("slack",),
        window_s=120.0,
    ),
    Rule(
        "tezzeret_compile_retry_high",
        "esper_tezzeret_compile_retry_count",
        "consecutive",
        1.0,
        "A kernel needed more than one retry to compile",
        "Read the compile job's error and run the forge again",
        ("email",),
    ),
    Rule(
        "tezzeret_conservative_mode",
        "esper_tezzeret_mode_conservative",
        "sustained",
        0.0,
        "The forge has been in conservative mode for 15 minutes: kernels compile one at a time, with less memory",
        "Read the forge's log for the breaker that is open or the memory that is short",
        ("email",),
        window_s=900.0,
    ),
)


@dataclass(frozen=True, slots=True)
class Watch:
    """What one rule remembers about one scope. Times in seconds, on whatever clock the samples come with."""

    active: bool = False
    in_a_row: int = 0
    bad_since_s: float | None = None
    last: float = 0.0
    total: float = 0.0
    increments: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fired (`active`) or cleared, with the value that made it."""

    rule: Rule
    scope: str
    active: bool
    value: float

    def body(self) -> event_pb2.AlertFired | event_pb2.AlertCleared:
        """The event body that tells of it."""
        if not self.active:
            return event_pb2.AlertCleared(rule=self.rule.name, value=self.value)
        return event_pb2.AlertFired(
            rule=self.rule.name,
            description=self.rule.description,
            value=self.value,
            threshold=self.rule.threshold,
            suggested_action=self.rule.suggested_action,
        )


Watches = Mapping[tuple[str, str], Watch]
"""By (rule, scope). What is missing is a `Watch()`."""

_BY_METRIC: Final = {rule.metric: rule for rule in RULES}
BY_RULE: Final = {rule.name: rule for rule in RULES}


def evolve_alerts(watches: Watches, sample: Sample, at_s: float) -> tuple[Watches, Alert | None]:
    """The watches after one sample, and the alert that it fired or cleared."""
    rule = _BY_METRIC.get(sample.name)
    if rule is None:
        return watches, None
    key = (rule.name, sample.scope)
    before = watches.get(key, Watch())
    verdict, after = _CONDITIONS[rule.condition](rule, before, sample.value, at_s)
    alert: Alert | None = None
    if verdict == "bad" and not before.active:
        alert = Alert(rule, sample.scope, active=True, value=sample.value)
    elif verdict == "good" and before.active:
        alert = Alert(rule, sample.scope, active=False, value=sample.value)
    active = before.active if alert is None else alert.active
    return {**watches, key: replace(after, active=active)}, alert


def evolve_time(watches: Watches, at_s: float) -> tuple[Watches, list[Alert]]:
    """The watches at a time at which no sample came, and the alerts that fire because what was bad has lasted."""
    fired = [
        Alert(BY_RULE[name], scope, active=True, value=watch.last)
        for (name, scope), watch in watches.items()
        if not watch.active and watch.bad_since_s is not None and at_s - watch.bad_since_s >= BY_RULE[name].window_s
    ]
    changed = {(alert.rule.name, alert.scope): alert for alert in fired}
    return {key: replace(watch, active=watch.active or key in changed) for key, watch in watches.items()}, fired


def waits(watches: Watches) -> bool:
    """Whether time alone may fire something."""
    return any(watch.bad_since_s is not None and not watch.active for watch in watches.values())


def evolve_restored(watches: Watches, rule: str, scope: str, *, active: bool) -> Watches:
    """The watches after an alert event of an earlier process: an alert that it left active does not fire again."""
    return {**watches, (rule, scope): Watch(active=active)}


def evolve_ended(watches: Watches, scope: str) -> tuple[Watches, list[Alert]]:
    """The watches after a run has finished: nothing is watched about it, and what was active clears."""
    cleared = [
        Alert(BY_RULE[rule], scope, active=False, value=0.0)
        for (rule, of), watch in watches.items()
        if of == scope and watch.active
    ]
    return {key: watch for key, watch in watches.items() if key[1] != scope}, cleared


Verdict = Literal["bad", "good", "undecided"]
"""`bad` fires, `good` clears, `undecided` does neither."""


def _consecutive(rule: Rule, watch: Watch, value: float, _at_s: float) -> tuple[Verdict, Watch]:
    if value <= rule.threshold:
        return "good", Watch()
    in_a_row = watch.in_a_row + 1
    return "bad" if in_a_row >= rule.samples else "undecided", replace(watch, in_a_row=in_a_row)


def _sustained(rule: Rule, watch: Watch, value: float, at_s: float) -> tuple[Verdict, Watch]:
    if value <= rule.threshold:
        return "good", Watch()
    since_s = at_s if watch.bad_since_s is None else watch.bad_since_s
    verdict: Verdict = "bad" if at_s - since_s >= rule.window_s else "undecided"
    return verdict, replace(watch, bad_since_s=since_s, last=value)


def _increase(rule: Rule, watch: Watch, value: float, at_s: float) -> tuple[Verdict, Watch]:
    grown = value - watch.total if value >= watch.total else value
    if grown == 0.0 and watch.active:
        return "good", Watch(total=value)
    recent = tuple((at, amount) for at, amount in watch.increments if at > at_s - rule.window_s)
    if grown:
        recent += ((at_s, grown),)
    enough = sum(amount for _, amount in recent) >= rule.threshold
    return "bad" if enough else "undecided", replace(watch, total=value, increments=recent)


_CONDITIONS: Final[dict[Condition, Callable[[Rule, Watch, float, float], tuple[Verdict, Watch]]]] = {
    "consecutive": _consecutive,
    "sustained": _sustained,
    "increase": _increase,
}
