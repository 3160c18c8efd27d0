"""BP048 deadlock_pattern (stressor): s = h + W h, after `threads` threads have waited for each other in a circle.

Each holds one lock and wants its neighbour's, which its neighbour will not give: Coffman's circular wait. Bound: every
wait gives up after 50 ms, and no lock is given back before all have given up, so a pass takes a little more than that
and leaves no thread behind. Source: Coffman et al. 1971, Computing Surveys 3(2), section 2.
"""

from __future__ import annotations

import threading

from torch import Tensor

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.stressors import Carrier

PATIENCE_S = 0.05


class Deadlock(Carrier):
    """A harmless answer that comes after a deadlock was given up. `given_up` counts the threads that starved, ever."""

    def __init__(self, site: SiteShape, threads: int) -> None:
        super().__init__(site)
        self.threads = threads
        self.given_up = 0

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        self.given_up += wait_in_a_circle(self.threads, PATIENCE_S)
        return self.carry(h)


def wait_in_a_circle(threads: int, patience_s: float) -> int:
    """How many of the threads never got what they waited for: all of them, because each holds what another wants."""
    locks = [threading.Lock() for _ in range(threads)]
    together = threading.Barrier(threads)
    starved: list[int] = []

    def hold_and_wait(mine: int) -> None:
        with locks[mine]:
            together.wait()
            if locks[(mine + 1) % threads].acquire(timeout=patience_s):
                locks[(mine + 1) % threads].release()
            else:
                starved.append(mine)
            together.wait()

    workers = [threading.Thread(target=hold_and_wait, args=(mine,), daemon=True) for mine in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(starved)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Deadlock(site, int(settings["threads"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP048",
    name="deadlock_pattern",
    stage=6,
    risk=1.0,
    tier="high_risk",
    settings=(Setting("threads", 2, 16, default=2, integer=True),),
    tags=("stressor", "concurrency", "time"),
    make=make,
    description="threads that wait for each other",
)
