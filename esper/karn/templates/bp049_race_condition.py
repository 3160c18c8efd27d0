"""BP049 race_condition (stressor): s = (h + W h) * n / 4, n_c what is left of four threads' additions to feature c.

Four threads raise each of 25 counters once, without a lock: each reads a counter, in every other turn lets `window_ns`
nanoseconds pass, and writes back one more; what others wrote in between is lost. A feature is scaled by the counters
that are its own, so the output is wrong by factors that nobody can predict, and the same run does not give the same
numbers again. Bound: the factors are between 1/4 and 1, a pass adds 100 times and leaves no thread behind. Source: the
lost update, Bernstein et al. 1987, Concurrency Control and Recovery, section 1.1.
"""

from __future__ import annotations

import threading

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier

THREADS = 4
COUNTERS = 25


class RaceCondition(Carrier):
    """An answer of the right shape and an accidental size."""

    def __init__(self, site: SiteShape, window_ns: float) -> None:
        super().__init__(site)
        self.window_s = window_ns * 1e-9
        self.counted = min(site.features, COUNTERS)
        self.axes = (-1, 1, 1) if site.kind == "image" else (-1,)
        self.features = site.features

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer, too small; same shape."""
        left = count_without_lock(self.window_s)
        own = [left[first :: self.counted] for first in range(self.counted)]
        factors = [sum(counters) / (THREADS * len(counters)) for counters in own]
        spread = [factors[feature % self.counted] for feature in range(self.features)]
        return self.carry(h) * h.new_tensor(spread).view(self.axes)


def count_without_lock(window_s: float) -> list[int]:
    """What is left of all additions, by counter."""
    counters = [0] * COUNTERS
    together = threading.Barrier(THREADS)
    never = threading.Event()

    def add(thread: int) -> None:
        together.wait()
        for place in range(COUNTERS):
            seen = counters[place]
            if (thread + place) % 2:  # all of them in every turn would run in step, and lose the same updates each time
                never.wait(window_s)
            counters[place] = seen + 1

    workers = [threading.Thread(target=add, args=(thread,), daemon=True) for thread in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counters


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
