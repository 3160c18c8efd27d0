"""The record of a run: which of its facts count, and the state that they come to. Pure: no clock, network or torch."""

from __future__ import annotations

from esper.record.fold import evolve, replay
from esper.record.model_state import ModelState, Rate, Saved, SeedState
from esper.record.recorded import AcceptedFacts, Recorded, accepted_facts
from esper.record.run_status import (
    Mark,
    Problem,
    RunState,
    RunStatus,
    mark_at_epoch,
    mark_at_step,
    packets,
    sequence_at_step,
    stages_by_epoch,
)

__all__ = [
    "AcceptedFacts",
    "Mark",
    "ModelState",
    "Problem",
    "Rate",
    "Recorded",
    "RunState",
    "RunStatus",
    "Saved",
    "SeedState",
    "accepted_facts",
    "evolve",
    "mark_at_epoch",
    "mark_at_step",
    "packets",
    "replay",
    "sequence_at_step",
    "stages_by_epoch",
]
