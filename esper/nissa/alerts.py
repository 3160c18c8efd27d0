"""Alerts as a pure fold of samples: each fires once, stays active, and clears on the first good sample.

A sample of another metric, or an event without the metric, changes nothing (R-NIS-9). Times come with the samples, and
`evolve_time` says that time has passed without one. What a busy machine adds to a duration fires nothing (ruling 36).
Source: R-NIS-5 to R-NIS-12; the thresholds are theirs in base units.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts.leyline.v1 import event_pb2
from esper.nissa.measure import Sample

Condition = Literal["consecutive", "sustained", "increase", "recurring"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert fires.

    `consecutive`: `samples` values in a row above `threshold`. `sustained`: every value above `threshold` for
    `window_s`, whether or not a sample comes at its end. `increase`: a running total grew by `threshold` at least
    within `window_s`; once it has fired, a sample without growth is a good one. A total that falls has begun anew.
    `recurring`: `threshold` things at least were counted within `window_s`; it clears once none was for so long.
    Values `below` the threshold are the bad ones where that is said. `where` narrows the metric to some values of one
    label; what a rule is `about` is the scope of all its samples, where it is no run. `routes` are the channels that a
    person is reached by.
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
    where: tuple[str, frozenset[str]] | None = None
    below: bool = False
    about: str = ""

    def good(self, value: float) -> bool:
        """Whether a value is one that fires nothing."""
        return value >= self.threshold if self.below else value <= self.threshold

    def takes(self, sample: Sample) -> bool:
        """Whether the sample is of what the rule is about."""
        return self.where is None or sample.labels.get(self.where[0]) in self.where[1]


SIGNATURES: Final = frozenset({"invalid_signature", "missing_signature"})
"""Why a record was refused that nobody with a key of ours wrote."""

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
    Rule(
        "tamiyo_timeout",
        "esper_tolaria_timeout_tamiyo_total",
        "recurring",
        3.0,
        "Three decisions of a run did not come in time: it goes on without growing, and asks again later",
        "Look whether the decider runs (esper doctor) and at its log; the run needs nothing",
        ("pagerduty", "slack"),
        window_s=300.0,
    ),
    Rule(
        "emergency_signal",
        "esper_emergency_level",
        "consecutive",
        2.0,
        "A run signalled an emergency: it has gone back to a kept state, stands still, or has halted",
        "Read why with esper events RUN --type emergency_signal; one that halted goes on with esper fork",
        ("pagerduty", "slack"),
    ),
    Rule(
        "bad_signatures",
        "esper_security_violations_total",
        "recurring",
        1.0,
        "Records came that no key of ours has signed; they were refused",
        "Check that every process has the same ESPER_KEY; if they have, somebody else writes to the log",
        ("pagerduty",),
        window_s=120.0,
        where=("reason", SIGNATURES),
        about="log",
    ),
    Rule(
        "log_down",
        "esper_oona_log_up",
        "consecutive",
        1.0,
        "The log does not answer a trainer, which stops after 30 s and can be resumed",
        "Look at the broker: is it up, is its disk full, is the network between? esper doctor looks closer",
        ("pagerduty", "slack"),
        below=True,
    ),
    Rule(
        "log_disk_full",
        "esper_broker_unwritable",
        "consecutive",
        0.0,
        "The embedded log could not write to its disk",
        "Make room on the disk of the data folder; nothing acknowledged is lost, and trainers wait for 30 s",
        ("pagerduty", "slack"),
    ),
    Rule(
        "archive_lag",
        "esper_archive_lag_seconds",
        "consecutive",
        30.0,
        "What is on the log has not been archived for 30 seconds",
        "Look whether the archiver runs (esper doctor) and whether its disk is full; the log keeps what is missing",
        ("slack",),
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
    if rule is None or not rule.takes(sample):
        return watches, None
    scope = rule.about or sample.scope
    key = (rule.name, scope)
    before = watches.get(key, Watch())
    verdict, after = _CONDITIONS[rule.condition](rule, before, sample.value, at_s)
    alert: Alert | None = None
    if verdict == "bad" and not before.active:
        alert = Alert(rule, scope, active=True, value=sample.value)
    elif verdict == "good" and before.active:
        alert = Alert(rule, scope, active=False, value=sample.value)
    active = before.active if alert is None else alert.active
    return {**watches, key: replace(after, active=active)}, alert


def evolve_time(watches: Watches, at_s: float) -> tuple[Watches, list[Alert]]:
    """The watches at a time at which no sample came, and the alerts that it makes.

    One fires because what was bad has lasted, and one clears because what recurred has not for so long.
    """
    changed = [
        Alert(BY_RULE[name], scope, active=not watch.active, value=0.0 if watch.active else watch.last)
        for (name, scope), watch in watches.items()
        if _ripe(BY_RULE[name], watch, at_s)
    ]
    after = {(alert.rule.name, alert.scope): alert.active for alert in changed}
    return {key: replace(watch, active=after.get(key, watch.active)) for key, watch in watches.items()}, changed


def _ripe(rule: Rule, watch: Watch, at_s: float) -> bool:
    """Whether by now its time has come to fire or to clear."""
    if rule.condition == "recurring":
        return watch.active and not any(at > at_s - rule.window_s for at, _ in watch.increments)
    return not watch.active and watch.bad_since_s is not None and at_s - watch.bad_since_s >= rule.window_s


def waits(watches: Watches) -> bool:
    """Whether time alone may fire or clear something."""
    return any(
        watch.active if BY_RULE[name].condition == "recurring" else watch.bad_since_s is not None and not watch.active
        for (name, _), watch in watches.items()
    )


def evolve_restored(watches: Watches, rule: str, scope: str, *, active: bool) -> Watches:
    """The watches after an alert event of an earlier process: an alert that it left active does not fire again.

    What was counted stays counted. A rule that only another Esper has is none of ours to clear.
    """
    if rule not in BY_RULE:
        return watches
    counted = watches.get((rule, scope), Watch()).increments if BY_RULE[rule].condition == "recurring" else ()
    return {**watches, (rule, scope): Watch(active=active, increments=counted)}


def evolve_ended(watches: Watches, scope: str) -> tuple[Watches, list[Alert]]:
    """The watches after a run has finished: nothing is watched about it, and what was active clears."""
    cleared = [
        Alert(BY_RULE[rule], scope, active=False, value=0.0)
        for (rule, of), watch in watches.items()
        if of == scope and watch.active
    ]
    return {key: watch for key, watch in watches.items() if key[1] != scope}, cleared


def evolve_absent(watches: Watches, metrics: Collection[str], present: Collection[str]) -> tuple[Watches, list[Alert]]:
    """The watches once only the scopes that are `present` can be asked for these metrics: what others left on clears.

    A process that was killed says no more that it is well.
    """
    absent = {
        (name, of): each
        for (name, of), each in watches.items()
        if BY_RULE[name].metric in metrics and of not in present
    }
    cleared = [Alert(BY_RULE[name], of, active=False, value=0.0) for (name, of), each in absent.items() if each.active]
    return {key: watch for key, watch in watches.items() if key not in absent}, cleared


Verdict = Literal["bad", "good", "undecided"]
"""`bad` fires, `good` clears, `undecided` does neither."""


def _consecutive(rule: Rule, watch: Watch, value: float, _at_s: float) -> tuple[Verdict, Watch]:
    if rule.good(value):
        return "good", Watch()
    in_a_row = watch.in_a_row + 1
    return "bad" if in_a_row >= rule.samples else "undecided", replace(watch, in_a_row=in_a_row)


def _sustained(rule: Rule, watch: Watch, value: float, at_s: float) -> tuple[Verdict, Watch]:
    if rule.good(value):
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


def _recurring(rule: Rule, watch: Watch, value: float, at_s: float) -> tuple[Verdict, Watch]:
    recent = (*(each for each in watch.increments if each[0] > at_s - rule.window_s), (at_s, value))[-_REMEMBERED:]
    enough = sum(amount for _, amount in recent) >= rule.threshold
    return "bad" if enough else "undecided", replace(watch, increments=recent, last=sum(each[1] for each in recent))


_REMEMBERED: Final = 100
"""Of what recurs so much is kept: more than any threshold."""

_CONDITIONS: Final[dict[Condition, Callable[[Rule, Watch, float, float], tuple[Verdict, Watch]]]] = {
    "consecutive": _consecutive,
    "sustained": _sustained,
    "increase": _increase,
    "recurring": _recurring,
}
