"""How long a crashed process waits before it is started again (R-OPS-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 2.0
CAP_S: Final = 30.0
JITTER: Final = 0.25
STABLE_S: Final = 10.0
"""A process that was ready for this long has run stably: its next crash counts as the first."""


@dataclass(slots=True)
class Backoff:
    """Waits of 0, 2, 4, 8, 16, 30, 30 … seconds, each up to a quarter longer by chance but never above 30.

    The first restart after a stable run does not wait: a trainer at its epoch's end waits two seconds for a decision,
    so a single crash of the decider or the broker then costs a run nothing. Only what crashes again is slowed down.
    """

    failures: int = 0

    def next_wait_s(self, ready_s: float, draw: float) -> float:
        """The wait after a crash; `ready_s` is how long the process was ready and `draw` is uniform in [0, 1)."""
        self.failures = 1 if ready_s >= STABLE_S else self.failures + 1
        if self.failures == 1:
            return 0.0
        base = min(CAP_S, FIRST_S * 2.0 ** (self.failures - 2))
        return min(CAP_S, base * (1.0 + JITTER * draw))
