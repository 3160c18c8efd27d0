"""A hint that the archive keeps with every fact: whether it was plainly the next one of its run.

A run whose facts are all regular has no gap, no repetition, no second claim and no fact of an unknown incarnation. So
the SQL fold looks closely only at runs that have an irregular fact, and a view knows that a regular row repeats no
other one. The hint is never wrong in that direction: whatever is not known for certain, such as how far a run had come
before the archiver was started again, is irregular, and then the exact rules of the fold decide.
"""

from __future__ import annotations

from collections.abc import Iterable


class Regularity:
    """How far each run has come, in the order in which records are archived.

    `started` are the runs that began before; None where that is not known, and then no fact is regular.
    """

    def __init__(self, started: Iterable[str] | None = ()) -> None:
        self._blind = started is None
        self._started = set(started or ())
        self._reached: dict[str, tuple[int, int, int]] = {}

    def take(self, run_id: str, body: str, partition: int, incarnation: int, sequence: int) -> bool:
        """Whether a fact is regular; call it for every fact in the log's order."""
        if body == "run_started":
            if self._blind or run_id in self._started or sequence != 1 or incarnation == 0:
                self._reached.pop(run_id, None)
                return False
            self._started.add(run_id)
        elif body == "run_resumed":
            self._reached.pop(run_id, None)
            return False
        elif self._reached.get(run_id) != (partition, incarnation, sequence - 1):
            return False
        self._reached[run_id] = (partition, incarnation, sequence)
        return True
