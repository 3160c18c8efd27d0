"""Whose word counts where Kasmina judges by what it measured: its own, or the record's where a run is lived again.

A verdict can hang on a clock (a kernel's latency, how close together violations came), so a run that is replayed takes
the recorded one. What is measured for it is measured all the same where it is part of the seeds' state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from contracts.leyline.v1.event_pb2 import BreakerChanged, GateEvaluated


class Witness(Protocol):
    """Is shown what was found just now and says what counts."""

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """The verdict of this gate on this seed."""

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """The isolation breakers that opened during this step, by seed, in the order in which they are told."""


class Present:
    """What is found counts."""

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """As found."""
        return found

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """As found."""
        return dict(found)
