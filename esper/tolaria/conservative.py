"""Conservative mode: while any reason holds, the network does not grow (R-TOL-32, R-TOL-33)."""

from __future__ import annotations

from contracts.leyline.v1.event_pb2 import ConservativeModeChanged


class ConservativeMode:
    """The reasons why nothing may be added to the network; each is entered and cleared by its name."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether any reason holds."""
        return bool(self._reasons)

    def enter(self, reason: str) -> list[ConservativeModeChanged]:
        """Add a reason; a change of the mode only where it is the first."""
        first = not self._reasons
        self._reasons.add(reason)
        return [ConservativeModeChanged(entered=True, reason=reason)] if first else []

    def clear(self, reason: str) -> list[ConservativeModeChanged]:
        """Drop a reason; a change of the mode only where it was the last."""
        if reason not in self._reasons:
            return []
        self._reasons.remove(reason)
        return [] if self._reasons else [ConservativeModeChanged(entered=False, reason=reason)]
