"""A list that grows at its end, can be cut back, and never changes under whoever holds an earlier version.

Every state of a fold holds one. Versions share their storage: appending to the newest is O(1) and copies nothing, as
long as nobody appended to it before; appending to an older one copies what that one sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """The ids of a run's accepted facts: the one at place n - 1 has sequence n."""

    _ids: list[bytes] = field(default_factory=list, repr=False)
    length: int = 0

    @classmethod
    def after(cls, length: int) -> Ledger:
        """A ledger whose first `length` facts are another run's, and not known here."""
        return cls([b""] * length, length)

    def appended(self, event_id: bytes) -> Ledger:
        """This ledger and one more id."""
        ids = self._ids if len(self._ids) == self.length else self._ids[: self.length]
        ids.append(event_id)
        return Ledger(ids, self.length + 1)

    def cut(self, length: int) -> Ledger:
        """The first `length` ids."""
        return Ledger(self._ids, min(length, self.length))

    def id_of(self, sequence: int) -> bytes | None:
        """The id of the fact with this sequence, or None where there is none."""
        return self._ids[sequence - 1] if 0 < sequence <= self.length else None
