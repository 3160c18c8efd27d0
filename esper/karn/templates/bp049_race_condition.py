"""BP049 race_condition (stressor): s = (h + W h) * n / 100, n what is left of 100 additions by four threads at once.

Each thread reads the counter, lets `window_ns` nanoseconds pass, and writes back one more, without a lock: what others
wrote in between is lost. So the output is wrong by a factor that nobody can predict, and the same run does not give the
same numbers again. Bound: the factor is between 1/100 and 1, a pass adds 100 times and leaves no thread behind. Source:
the lost update, Bernstein et al. 1987, Concurrency Control and Recovery, section 1.1.
"""

from __future__ import annotations

import threading

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier

THREADS = 4
ADDITIONS = 25


class RaceCondition(Carrier):
    """An answer of the right shape and an accidental size."""

    def __init__(self, site: SiteShape, window_ns: float) -> None:
        super().__init__(site)
        self.window_s = window_ns * 1e-9

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer, too small; same shape."""
        return self.carry(h) * (count_without_lock(self.window_s) / (THREADS * ADDITIONS))


def count_without_lock(window_s: float) -> int:
    """What is left of all additions."""
    counter = [0]
    together = threading.Barrier(THREADS)
    never = threading.Event()

    def add() -> None:
        together.wait()
        for _ in range(ADDITIONS):
            seen = counter[0]
            never.wait(window_s)
            counter[0] = seen + 1

    workers = [threading.Thread(target=add, daemon=True) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counter[0]


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return RaceCondition(site, settings["window_ns"])


BLUEPRINT = Blueprint(
    blueprint_id="BP049",
    name="race_condition",
    stage=6,
    risk=0.9,
    tier="high_risk",
    settings=(Setting("window_ns", 10.0, 1000.0, default=100.0),),
    tags=("stressor", "concurrency"),
    make=make,
    description="output scaled by a lost-update count",
)
