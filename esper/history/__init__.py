"""What a run's events add up to: a pure fold that knows no clock, no network and no torch."""

from __future__ import annotations

from esper.history.accepted import Accepted, accept
from esper.history.fold import evolve, replay
from esper.history.recorded import Recorded
from esper.history.state import Problem, RunState, SeedState, sequence_at_step, stages_by_epoch, state_at_step

__all__ = [
    "Accepted",
    "Problem",
    "Recorded",
    "RunState",
    "SeedState",
    "accept",
    "evolve",
    "replay",
    "sequence_at_step",
    "stages_by_epoch",
    "state_at_step",
]
