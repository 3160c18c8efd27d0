"""The four compile pipelines, their limits, and the conservative mode that lowers them.

Times and memory are those of R-TEZ-4 and R-TEZ-5. Two breakers and the machine's memory decide when the forge is
conservative (R-TEZ-8 to R-TEZ-10); there is no GPU breaker, because kernels are compiled on the CPU, with every GPU
hidden from the child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN
from esper.errors import InvalidInput
from esper.leyline.breaker import CircuitBreaker

DEFAULT: Final = "standard"
MAX_RETRIES: Final = 2
"""R-TEZ-11: n retries are n + 1 attempts."""
MAX_JOBS: Final = 2
MAX_JOBS_CONSERVATIVE: Final = 1
CONSERVATIVE_TIME: Final = 1.5
CONSERVATIVE_MEMORY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One way to make a kernel. `options` are Inductor's; without `compiles` the kernel is eager."""

    name: str
    timeout_s: float
    memory_mb: int
    compiles: bool = True
    options: Mapping[str, bool] = field(default_factory=dict)


AGGRESSIVE: Final = Pipeline(
    "aggressive", 960.0, 16_384, options={"max_autotune": True, "coordinate_descent_tuning": True}
)
STANDARD: Final = Pipeline("standard", 250.0, 8_192)
FAST: Final = Pipeline("fast", 65.0, 4_096, options={"epilogue_fusion": False, "pattern_matcher": False})
EMERGENCY: Final = Pipeline("emergency", 10.0, 2_048, compiles=False)
LADDER: Final = (AGGRESSIVE, STANDARD, FAST, EMERGENCY)
BY_NAME: Final = {pipeline.name: pipeline for pipeline in LADDER}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt gets: the pipeline, and the wall-clock time and memory at which its child is killed."""

    pipeline: str
    timeout_s: float
    memory_bytes: int


def pipeline(name: str) -> Pipeline:
    """The pipeline of that name; raises InvalidInput where there is none."""
    found = BY_NAME.get(name)
    if found is None:
        raise InvalidInput(f"there is no pipeline {name!r}; there are {', '.join(BY_NAME)}")
    return found


def lower(name: str) -> Pipeline:
    """The next pipeline down the ladder; below the last there is none lower."""
    return LADDER[min(LADDER.index(pipeline(name)) + 1, len(LADDER) - 1)]


def limits(
    requested: str, *, attempt: int, attempts: int, conservative: bool = False, aggressive: bool = False
) -> Limits:
    """What attempt number `attempt` (from 1) of `attempts` gets.

    Every further attempt is one pipeline down the ladder and the last of several the emergency pipeline, so that a
    template at which the compiler hangs or eats all memory still gets its eager kernel. The aggressive pipeline needs
    `aggressive`, a person's consent, and the conservative mode never grants it (R-TEZ-7).
    """
    chosen = pipeline(requested)
    if chosen is AGGRESSIVE and not aggressive:
        chosen = STANDARD
    if conservative:
        chosen = lower(chosen.name)
    for _ in range(attempt - 1):
        chosen = lower(chosen.name)
    if attempt > 1 and attempt >= attempts:
        chosen = EMERGENCY
    return Limits(
        pipeline=chosen.name,
        timeout_s=chosen.timeout_s * (CONSERVATIVE_TIME if conservative else 1.0),
        memory_bytes=round(chosen.memory_mb * 2**20 * (CONSERVATIVE_MEMORY if conservative else 1.0)),
    )


MEMORY_LIMIT: Final = 0.8
"""Share of the machine's memory in use above which the forge is conservative."""
WINDOW_S: Final = 3_600.0
"""Failures count within an hour: two jobs that run into a limit of minutes fail that far apart."""


class Breakers:
    """One breaker for children that took too much memory and one for those that took too long."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._by_kind = {
            "memory": CircuitBreaker(
                "tezzeret_memory", failures=3, window_s=WINDOW_S, reset_s=30.0, successes=3, monotonic=monotonic
            ),
            "timeout": CircuitBreaker(
                "tezzeret_timeout", failures=2, window_s=WINDOW_S, reset_s=300.0, successes=3, monotonic=monotonic
            ),
        }

    def failed(self, kind: str, reason: str) -> list[BreakerChanged]:
        """Record a failed attempt; kinds without a breaker, such as a template's own error, count nowhere."""
        breaker = self._by_kind.get(kind)
        return breaker.failed(reason) if breaker is not None else []

    def succeeded(self) -> list[BreakerChanged]:
        """Record an attempt that stayed within both limits."""
        return [change for breaker in self._by_kind.values() for change in breaker.succeeded()]

    def poll(self) -> list[BreakerChanged]:
        """Let time pass."""
        return [change for breaker in self._by_kind.values() for change in breaker.poll()]

    def states(self) -> dict[str, int]:
        """The state of every breaker by its name, as the number that `esper.leyline.breaker` gives it."""
        return {each.name: int(each.state) for each in self._by_kind.values()}

    def open_ones(self) -> list[str]:
        """The names of those that are open."""
        return [each.name for each in self._by_kind.values() if each.state == CIRCUIT_BREAKER_STATE_OPEN]


def conservative_reason(open_breakers: list[str], memory_used: float) -> str:
    """Why to be conservative, in one line; empty where there is no reason. `memory_used` is a share of 1."""
    if open_breakers:
        return f"open: {', '.join(open_breakers)}"
    if memory_used > MEMORY_LIMIT:
        return f"{memory_used:.0%} of the memory is in use, above {MEMORY_LIMIT:.0%}"
    return ""
