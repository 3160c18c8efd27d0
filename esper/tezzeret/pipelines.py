"""The four pipelines and the ladder down: how much time, memory and optimisation one attempt at a job gets.

Times and memory are those of R-TEZ-4 and R-TEZ-5; what conservative mode changes is R-TEZ-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from esper.errors import InvalidInput

DEFAULT: Final = "standard"
MAX_RETRIES: Final = 1
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

    The last of several is the emergency pipeline, so that a template at which the compiler hangs or eats all memory
    still gets its eager kernel. The aggressive pipeline needs `aggressive`, a person's consent, and the conservative
    mode never grants it (R-TEZ-7).
    """
    chosen = pipeline(requested)
    if chosen is AGGRESSIVE and not aggressive:
        chosen = STANDARD
    if conservative:
        chosen = lower(chosen.name)
    if attempt > 1 and attempt >= attempts:
        chosen = EMERGENCY
    return Limits(
        pipeline=chosen.name,
        timeout_s=chosen.timeout_s * (CONSERVATIVE_TIME if conservative else 1.0),
        memory_bytes=round(chosen.memory_mb * 2**20 * (CONSERVATIVE_MEMORY if conservative else 1.0)),
    )
