"""Who owns a run, by the claims on the log: what a trainer watches, by the rule of `esper.record.accept`."""

from __future__ import annotations

import threading
from typing import Final

from esper.errors import LogUnavailable, Superseded
from esper.leyline.envelope import Event
from esper.record.accept import supersedes

FIRST: Final = 1
"""The incarnation of a run's start."""


class Claims:
    """The claims to one run, in the order in which they lie on the log. Safe for two threads.

    A run's start is one, and of two starts the one that lies there first counts.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._changed = threading.Condition()
        self._mine = (FIRST, b"")  # incarnation, and the id of the claim to it
        self._owner = (0, b"")  # of the claims seen, the one that counts

    def make(self, claim: Event) -> None:
        """`claim` is about to be published."""
        with self._changed:
            self._mine = (claim.incarnation, claim.event_id)

    def seen(self, claim: Event) -> bool:
        """A claim lies on the log; returns whether the run is another process's now."""
        with self._changed:
            if supersedes(claim.incarnation, self._owner[0]):
                self._owner = (claim.incarnation, claim.event_id)
            self._changed.notify_all()
            return self._taken_over()

    def await_own(self, timeout_s: float) -> None:
        """Wait until the claim that was made lies on the log, and no other before it; raises as `check`."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._owner[0] >= self._mine[0], timeout_s)
        self.check()
        if not came:
            raise LogUnavailable(f"the claim to run {self._run_id} did not come back within {timeout_s:.0f} s")

    def check(self) -> None:
        """Raise Superseded where another process owns the run."""
        if self._owner[0] and self._taken_over():
            if self._owner[0] == FIRST:
                raise Superseded(
                    f"run {self._run_id} was started before, by another process; this one stops before its first step: "
                    "give it another id"
                )
            raise Superseded(
                f"run {self._run_id} was taken over by another process that resumed it (incarnation "
                f"{self._owner[0]}); this one stops, and nothing that it wrote since counts"
            )

    def _taken_over(self) -> bool:
        incarnation, claim = self._mine
        owner, winner = self._owner
        return supersedes(owner, incarnation) or (owner == incarnation and bool(claim) and winner != claim)
