"""Service level objectives: what is promised, by which share, and when what is spent of it calls a person.

An objective's error budget is what may go wrong in 30 days: one minus the objective, of all that was asked. Its burn
rate is how many times as fast as that it is spent; at 1 it lasts exactly 30 days. A person is called where two windows
agree, a long one, so that it matters, and a short one, so that it still goes on. Windows and rates are those of the
Site Reliability Workbook (Beyer et al., 2018), chapter 5, "Alerting on SLOs", table 5-8; the fifth is R-NIS-14's: 40 %
of the budget within a day, a burn rate of 0.4 * 30 = 12.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

DAYS: Final = 30
SPENT_IN_A_DAY: Final = 0.4
"""R-NIS-14: so much of the budget, spent within a day, calls a person."""
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
_SLOW: Final = frozenset({"1d", "3d", "30d"})


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: `share` of what `total` counts is not to be among what `errors` counts.

    Both are PromQL with `[w]` where a window belongs. Where `on_record`, the history knows it too, and the view `slos`
    has it under this name; the others are seen by Prometheus alone.
    """

    name: str
    kind: Literal["availability", "latency", "error_rate"]
    share: float
    promise: str
    errors: str
    total: str
    on_record: bool = True


def _slower(metric: str, bound: str) -> tuple[str, str]:
    """What of a histogram lies above a bucket's bound, and all of it."""
    total = f"sum(rate({metric}_count[w]))"
    return f'({total} - sum(rate({metric}_bucket{{le="{bound}"}}[w])))', total


OBJECTIVES: Final = (
    Objective(
        "decisions_in_time",
        "availability",
        0.999,
        "a decision comes within the time that the run waits for it",
        "sum(rate(esper_tolaria_timeout_tamiyo_total[w]))",
        "(sum(rate(esper_tamiyo_decisions_total[w]))"
        " + (sum(rate(esper_tolaria_timeout_tamiyo_total[w])) or vector(0)))",
    ),
    Objective(
        "epoch_hooks",
        "latency",
        0.95,
        "an epoch's hook takes at most 18 ms of its own time",
        *_slower("esper_tolaria_hook_duration_seconds", "0.018"),
    ),
    Objective(
        "rollbacks_in_time",
        "latency",
        0.99,
        "a rollback takes at most 500 ms, a full one 12 s",
        "sum(rate(esper_tolaria_rollback_deadline_exceeded_total[w]))",
        "sum(rate(esper_tolaria_rollback_total[w]))",
    ),
    Objective(
        "telemetry_kept",
        "error_rate",
        0.95,
        "telemetry is not shed",
        "sum(rate(esper_oona_publish_dropped_total[w]))",
        '(sum(rate(esper_oona_publish_total{topic="esper.telemetry"}[w]))'
        " + (sum(rate(esper_oona_publish_dropped_total[w])) or vector(0)))",
    ),
    Objective(
        "publishes",
        "latency",
        0.999,
        "the log acknowledges an event within 25 ms",
        *_slower("esper_oona_publish_latency_seconds", "0.025"),
        on_record=False,
    ),
    Objective(
        "deliveries",
        "error_rate",
        0.999,
        "a record is handled, and not given up after three attempts",
        "sum(rate(esper_oona_dead_letter_total[w]))",
        "sum(rate(esper_oona_consume_total[w]))",
        on_record=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Burn:
    """Spent in both windows at `rate` times what lasts 30 days, somebody is told with this severity."""

    name: str
    rate: float
    long: str
    short: str
    severity: str


BURNS: Final = (
    Burn("slo_burn_fast", 14.4, "1h", "5m", "critical"),
    Burn("slo_burn", 6.0, "6h", "30m", "critical"),
    Burn("slo_budget_of_a_day", SPENT_IN_A_DAY * DAYS, "1d", "1h", "critical"),
    Burn("slo_burn_slow", 3.0, "1d", "2h", "warning"),
    Burn("slo_burn_for_days", 1.0, "3d", "6h", "warning"),
)


def rules() -> dict[str, Any]:
    """The recording rules and alerts, as Prometheus reads them."""
    quick = [_recorded(each, window) for each in OBJECTIVES for window in WINDOWS if window not in _SLOW]
    slow = [_recorded(each, window) for each in OBJECTIVES for window in WINDOWS if window in _SLOW]
    return {
        "groups": [
            {"name": "slo", "rules": [*quick, *_burn_rates(), _budget_left()]},
            {"name": "slo_slow", "interval": "5m", "rules": slow},
            {"name": "slo_alerts", "rules": [_alert(burn) for burn in BURNS]},
        ]
    }


def _recorded(objective: Objective, window: str) -> dict[str, Any]:
    errors, total = (text.replace("[w]", f"[{window}]") for text in (objective.errors, objective.total))
    return {
        "record": f"esper:slo_errors:ratio_rate{window}",
        "expr": f"({errors} or vector(0)) / ({total} > 0)",
        "labels": {"slo": objective.name},
    }


def _burn_rates() -> Iterator[dict[str, Any]]:
    for each in OBJECTIVES:
        for window in WINDOWS:
            yield {
                "record": f"esper:slo_burn:rate{window}",
                "expr": f'esper:slo_errors:ratio_rate{window}{{slo="{each.name}"}} / {1 - each.share:.6g}',
                "labels": {"slo": each.name},
            }


def _budget_left() -> dict[str, Any]:
    return {"record": "esper:slo_budget_left:ratio", "expr": "clamp_min(1 - esper:slo_burn:rate30d, 0)"}


def _alert(burn: Burn) -> dict[str, Any]:
    return {
        "alert": burn.name,
        "expr": f"esper:slo_burn:rate{burn.long} > {burn.rate:g} and esper:slo_burn:rate{burn.short} > {burn.rate:g}",
        "labels": {"severity": burn.severity},
        "annotations": {
            "summary": "Objective {{ $labels.slo }} spends its error budget {{ $value }} times as fast as it may",
            "action": "esper slo says what is left of each budget; docs/slos.md what each objective counts",
        },
    }


def as_json() -> str:
    """The rules as JSON, which is YAML that every reader of it takes."""
    return json.dumps(rules(), indent=2) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) / "slo.yml").write_text(as_json(), "utf-8")
