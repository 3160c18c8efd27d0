"""Karn as others ask it: selection behind a breaker, with approvals that it keeps and figures about every query.

What can fail is where approvals come from. Three failures in a row, a selection that takes longer than 400 ms, or an
alarm open the breaker: from then on every query gets a template of the conservative pool, until 30 s later one query is
tried in earnest again. A caller's mistake is answered with its reason and does not count. Requirements R-KARN-12 to 18.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintApproved, BreakerChanged
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_OPEN,
    TELEMETRY_LEVEL_INFO,
    TELEMETRY_LEVEL_WARNING,
    MetricPoint,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.errors import InvalidInput
from esper.karn.approval import Approvals, Clearance, evolve_approvals
from esper.karn.blueprint import Tier
from esper.karn.selection import Request, Selection, fallback, select
from esper.leyline.breaker import CircuitBreaker

SLOW_MS: Final = 400.0
FRESH_S: Final = 6 * 3600.0
"""How long what was read counts as true; approvals that are told with `approved` count at once."""
SWEEP_S: Final = 300.0
"""How often `sweep` should be called, so that a query seldom waits for a refresh."""
COUNTED_AS: Final[dict[Tier, str]] = {"safe": "safe", "experimental": "experimental", "high_risk": "adversarial"}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one query: a selection, or a refusal that tells the caller what was wrong with the request.

    `changes` are facts that must be published, `telemetry` is one packet with one event.
    """

    selection: Selection | None
    refusal: str
    changes: list[BreakerChanged]
    telemetry: TelemetryPacket


class Karn:
    """Answers requests for templates. Not safe for several threads at once.

    `read_approvals` gives all approvals from wherever they are kept and may raise anything; `monotonic` gives seconds.
    """

    def __init__(self, read_approvals: Callable[[], Approvals], *, monotonic: Callable[[], float]) -> None:
        self._read = read_approvals
        self._monotonic = monotonic
        self._breaker = CircuitBreaker(
            "karn", failures=3, window_s=math.inf, reset_s=30.0, successes=1, in_a_row=True, monotonic=monotonic
        )
        self._approvals: Approvals = {}
        self._read_at = -math.inf
        self._counts: dict[str, int] = dict.fromkeys(
            (
                *("karn.requests.total", "karn.requests.failed", "karn.breaker.denied", "karn.breaker.open_total"),
                *(f"karn.selection.{name}" for name in COUNTED_AS.values()),
            ),
            0,
        )

    def ask(self, request: Request, *, drill: bool = False) -> Reply:
        """The answer to a request; `drill` says that it is asked inside a quarantine drill. Never raises."""
        started = self._monotonic()
        changes = self._breaker.poll()
        selection: Selection | None = None
        refusal = trouble = ""
        if not self._breaker.allows:
            self._counts["karn.breaker.denied"] += 1
            selection = fallback(request)
        else:
            try:
                self._refresh()
                selection = select(request, Clearance(self._approvals, drill=drill))
            except InvalidInput as error:
                refusal = str(error)
            except Exception as error:  # noqa: BLE001  (approvals come from anywhere; a run must not stop for them)
                trouble = f"{type(error).__name__}: {error}"
                selection = fallback(request)
        took_ms = (self._monotonic() - started) * 1e3
        changes += self._judge(took_ms, trouble, answered=selection is not None)
        self._counts["karn.breaker.open_total"] += sum(c.to_state == CIRCUIT_BREAKER_STATE_OPEN for c in changes)
        return Reply(selection, refusal, changes, self._told(selection, refusal or trouble, took_ms))

    def alarm(self, reason: str) -> list[BreakerChanged]:
        """Be conservative for the next 30 s, because something else raised an alarm."""
        return self._opened(self._breaker.force(CIRCUIT_BREAKER_STATE_OPEN, reason))

    def approved(self, event: BlueprintApproved) -> None:
        """Take note of an approval, or of one that is taken back; it counts from the next query on."""
        self._approvals = evolve_approvals(self._approvals, event)

    def sweep(self) -> list[BreakerChanged]:
        """Read approvals again where they are older than six hours; call it every five minutes."""
        try:
            self._refresh()
        except Exception as error:  # noqa: BLE001  (as in `ask`)
            return self._opened(self._breaker.failed(f"{type(error).__name__}: {error}"))
        return []

    def _refresh(self) -> None:
        now = self._monotonic()
        if now - self._read_at >= FRESH_S:
            self._approvals = self._read()
            self._read_at = now

    def _judge(self, took_ms: float, trouble: str, *, answered: bool) -> list[BreakerChanged]:
        """What a query means for the breaker; nothing while it is open, and nothing where the caller was wrong."""
        if trouble:
            return self._breaker.failed(trouble)
        if not self._breaker.allows:
            return []
        if took_ms > SLOW_MS:
            return self._breaker.force(CIRCUIT_BREAKER_STATE_OPEN, f"a selection took {took_ms:.0f} ms")
        return self._breaker.succeeded() if answered else []

    def _opened(self, changes: list[BreakerChanged]) -> list[BreakerChanged]:
        self._counts["karn.breaker.open_total"] += sum(c.to_state == CIRCUIT_BREAKER_STATE_OPEN for c in changes)
        return changes

    def _told(self, selection: Selection | None, problem: str, took_ms: float) -> TelemetryPacket:
        """One event, and every figure as it stands after the query."""
        counts = self._counts
        counts["karn.requests.total"] += 1
        counts["karn.requests.failed"] += bool(problem)
        attributes = {"latency_ms": f"{took_ms:.3f}"}
        if selection is not None:
            tier = selection.blueprint.tier
            counts[f"karn.selection.{COUNTED_AS[tier]}"] += 1
            attributes |= {
                "blueprint_id": selection.blueprint.blueprint_id,
                "tier": tier,
                "conservative": str(selection.conservative).lower(),
            }
        if problem:
            attributes["reason"] = problem
        level = TELEMETRY_LEVEL_WARNING if problem else TELEMETRY_LEVEL_INFO
        name = "karn.selection_failed" if problem else "karn.selection_succeeded"
        gauges = [
            MetricPoint(name="karn.selection.latency_ms", value=took_ms, unit="ms"),
            MetricPoint(name="karn.breaker.state", value=float(self._breaker.state), unit="state"),
        ]
        return TelemetryPacket(
            packet_id=f"karn-{counts['karn.requests.total']}",
            source_subsystem="karn",
            level=level,
            metrics=[*(MetricPoint(name=key, value=value, unit="count") for key, value in counts.items()), *gauges],
            events=[TelemetryEvent(event_id=name, description=name, level=level, attributes=attributes)],
        )
