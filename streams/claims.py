"""Who owns a run: of two claims to one incarnation the lower offset wins, and a higher incarnation takes it over."""

from __future__ import annotations

import threading

from esper.errors import LogUnavailable, Superseded
from esper.leyline.envelope import Event


class Claims:
    """The claims to one run, in the order in which they lie on the log. Safe for two threads.

    A trainer that began the run has the first incarnation without a claim.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._changed = threading.Condition()
        self._mine = (1, b"")
        self._first: dict[int, bytes] = {}  # the first claim to each incarnation

    def make(self, claim: Event) -> None:
        """`claim` is about to be published."""
        with self._changed:
            self._mine = (claim.incarnation, claim.event_id)

    def seen(self, claim: Event) -> bool:
        """A claim lies on the log; whether that means that the run is another process's now."""
        with self._changed:
            self._first.setdefault(claim.incarnation, claim.event_id)
            self._changed.notify_all()
            return self._taken_over()

    def await_own(self, timeout_s: float) -> None:
        """Wait until the claim that was made lies on the log, and no other before it; raises as `check`."""
        incarnation, _ = self._mine
        with self._changed:
            came = self._changed.wait_for(lambda: incarnation in self._first or self._taken_over(), timeout_s)
        self.check()
        if not came:
            raise LogUnavailable(f"the claim to run {self._run_id} did not come back within {timeout_s:.0f} s")

    def check(self) -> None:
        """Raise Superseded where another process owns the run."""
        if self._first and self._taken_over():
            raise Superseded(
                f"run {self._run_id} was taken over by another process that resumed it (incarnation "
                f"{max(self._first)}); this one stops, and nothing that it wrote since counts"
            )

    def _taken_over(self) -> bool:
        incarnation, mine = self._mine
        first = self._first.get(incarnation, mine)
        return max(self._first, default=0) > incarnation or (bool(mine) and first != mine)
