"""What a run's events add up to: a pure fold that knows no clock, no network and no torch."""

from __future__ import annotations

from esper.history.accepted import Accepted, accept
from esper.history.fold import evolve, replay
from esper.history.recorded import Recorded
from esper.history.state import (
    Mark,
    Problem,
    Rate,
    RunState,
    Saved,
    SeedState,
    Standing,
    World,
    mark_at_epoch,
    mark_at_step,
    packets,
    sequence_at_step,
    stages_by_epoch,
)

__all__ = [
    "Accepted",
    "Mark",
    "Problem",
    "Rate",
    "Recorded",
    "RunState",
    "Saved",
    "SeedState",
    "Standing",
    "World",
    "accept",
    "evolve",
    "mark_at_epoch",
    "mark_at_step",
    "packets",
    "replay",
    "sequence_at_step",
    "stages_by_epoch",
]
