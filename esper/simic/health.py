"""Simic's health: breakers around what it does, a conservative mode, figures, and what of its objectives is kept.

Failures are counted and times recorded; a person and the alerts look at them. What decides is whether a thing failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_OPEN,
    HEALTH_STATUS_CRITICAL,
    HEALTH_STATUS_DEGRADED,
    HEALTH_STATUS_HEALTHY,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_INFO,
    TELEMETRY_LEVEL_WARNING,
    HealthStatus,
    MetricPoint,
    SystemHealth,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.errors import EsperError, InvalidInput
from esper.leyline.breaker import STATE_NAMES, CircuitBreaker
from esper.simic.replay_buffer import GIB, ReplayBuffer

BREAKERS: Final[Mapping[str, tuple[int, float]]] = {
    "storage": (3, 30.0),
    "sampling": (5, 30.0),
    "processing": (3, 60.0),
    "training": (5, 60.0),
    "publication": (3, 60.0),
}
"""Failures that open each (within 60 s of each other at most), and the seconds until it is tried again: R-SIM-14."""
WARN_BYTES, CRITICAL_BYTES, MOST_BYTES = 5 * GIB, 6 * GIB, 12 * GIB
"""Of the buffer's tensors (R-SIM-42), and of the whole process (R-SIM-47)."""
STEP_MS: Final = 500.0
LEAST_PASSED: Final = 0.7


class Breakers:
    """One breaker for each kind of work. `changes` collects what changed, for who publishes it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.changes: list[BreakerChanged] = []
        self._by_name = {
            name: CircuitBreaker(
                f"simic.{name}", failures=failures, window_s=60.0, reset_s=reset_s, successes=1, monotonic=monotonic
            )
            for name, (failures, reset_s) in BREAKERS.items()
        }

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Do a piece of work: its failure counts, and while its breaker is open it is not done (InvalidInput)."""
        breaker = self._by_name[name]
        self.changes += breaker.poll()
        if not breaker.allows:
            raise InvalidInput(f"simic's breaker for {name} is open after failures in a row; it is tried again later")
        try:
            yield
        except (EsperError, OSError, RuntimeError, MemoryError) as error:
            self.changes += breaker.failed(f"{type(error).__name__}: {error}")
            raise
        self.changes += breaker.succeeded()

    def states(self) -> dict[str, int]:
        """The state of each, as a number of `CircuitBreakerState`."""
        return {name: breaker.state for name, breaker in self._by_name.items()}

    @property
    def any_open(self) -> bool:
        """Whether something is not done at present."""
        return any(state == CIRCUIT_BREAKER_STATE_OPEN for state in self.states().values())


@dataclass(frozen=True, slots=True)
class Health:
    """What is so now. `problems` are sentences, the worst first."""

    status: HealthStatus
    problems: Sequence[str]
    figures: Mapping[str, float]


def conservative(breakers: Breakers, buffer: ReplayBuffer, *, restored: int = 0) -> bool:
    """Whether to train with care: a breaker is open, memory runs short, or the last training had to be put back."""
    return breakers.any_open or buffer.nbytes >= WARN_BYTES or restored > 0


def health(
    breakers: Breakers, buffer: ReplayBuffer, figures: Mapping[str, float], *, memory_bytes: int, passed: Sequence[bool]
) -> Health:
    """Health and figures (policy sheet 2.8). `passed` says of past trainings whether their gates let them pass."""
    problems = {
        HEALTH_STATUS_CRITICAL: [
            *(
                f"the breaker for {name} is {STATE_NAMES[state]}"
                for name, state in breakers.states().items()
                if state == CIRCUIT_BREAKER_STATE_OPEN
            ),
            *([f"the replay buffer holds {buffer.nbytes / GIB:.1f} GiB"] if buffer.nbytes >= CRITICAL_BYTES else []),
            *([f"the process holds {memory_bytes / GIB:.1f} GiB"] if memory_bytes >= MOST_BYTES else []),
        ],
        HEALTH_STATUS_DEGRADED: [
            *(
                f"the breaker for {name} is {STATE_NAMES[state]}"
                for name, state in breakers.states().items()
                if state not in {CIRCUIT_BREAKER_STATE_OPEN, CIRCUIT_BREAKER_STATE_CLOSED}
            ),
            *(
                [f"the replay buffer holds {buffer.nbytes / GIB:.1f} GiB"]
                if WARN_BYTES <= buffer.nbytes < CRITICAL_BYTES
                else []
            ),
            *([f"{len(buffer)} experiences are too few to train on"] if len(buffer) < buffer.settings.minimum else []),
        ],
    }
    status = next((level for level, found in problems.items() if found), HEALTH_STATUS_HEALTHY)
    kept = objectives(breakers, buffer, figures, passed)
    all_figures = {
        **figures,
        **buffer.figures(),
        **{f"simic.{name}.breaker_state": float(state) for name, state in breakers.states().items()},
        **{f"simic.slo.{name}": float(good) for name, good in kept.items()},
        "simic_memory_usage_gb": memory_bytes / GIB,
        "simic_slo_compliance": sum(kept.values()) / len(kept),
    }
    return Health(status, [one for found in problems.values() for one in found], all_figures)


def objectives(
    breakers: Breakers, buffer: ReplayBuffer, figures: Mapping[str, float], passed: Sequence[bool]
) -> dict[str, bool]:
    """Which of Simic's objectives of service are kept (R-SIM-46): by counts where the sheet counts days (ruling 34)."""
    return {
        "step_time": figures.get("simic_training_time_ms", 0.0) <= STEP_MS,
        "buffer_memory": buffer.nbytes <= CRITICAL_BYTES,
        "breakers_closed": not breakers.any_open,
        "trainings_passed": not passed or sum(passed) / len(passed) >= LEAST_PASSED,
    }


def telemetry(found: Health, *, packet_id: str, now_ns: int, rejected: str = "") -> TelemetryPacket:
    """The packet of these figures; `rejected` is why the gates let a policy not pass, a WARNING (R-SIM-35)."""
    level = {
        HEALTH_STATUS_HEALTHY: TELEMETRY_LEVEL_WARNING if rejected else TELEMETRY_LEVEL_INFO,
        HEALTH_STATUS_DEGRADED: TELEMETRY_LEVEL_WARNING,
        HEALTH_STATUS_CRITICAL: TELEMETRY_LEVEL_CRITICAL,
    }[found.status]
    events = [TelemetryEvent(event_id="simic.health", description=one, level=level) for one in found.problems]
    if rejected:
        warning = TelemetryEvent(
            event_id="simic.validation_failed", description=rejected, level=TELEMETRY_LEVEL_WARNING
        )
        events.insert(0, warning)
    packet = TelemetryPacket(
        packet_id=packet_id,
        source_subsystem="simic",
        level=level,
        metrics=[MetricPoint(name=name, value=value) for name, value in sorted(found.figures.items())],
        events=events,
        system_health=SystemHealth(status=found.status, summary="; ".join(found.problems)),
    )
    packet.timestamp.FromNanoseconds(now_ns)
    return packet
