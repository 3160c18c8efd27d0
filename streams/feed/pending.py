"""Rows on their way into a batch."""

from __future__ import annotations

import time
from collections import deque

import pyarrow as pa

from streams.feed.lanes import Lane


class Pending:
    """The rows of one body type that were read and not yet handed to the job, in the order of reading."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.rows = 0
        self._since_s = 0.0
        self._parts: deque[tuple[Lane, pa.Table]] = deque()

    def add(self, lane: Lane, rows: pa.Table) -> None:
        """Append what was read from `lane`."""
        if not self.rows:
            self._since_s = time.monotonic()
        self._parts.append((lane, rows))
        self.rows += rows.num_rows

    def waited_s(self) -> float:
        """How long the first of the rows has waited; 0 where none does."""
        return time.monotonic() - self._since_s if self.rows else 0.0

    def first(self, lane: Lane) -> int | None:
        """The lowest offset of `lane` that waits here; None where none does."""
        for each, rows in self._parts:
            if each is lane:
                return int(rows.column("log_offset")[0].as_py())
        return None

    def take(self, count: int) -> pa.Table:
        """The first `count` rows, fewer where there are not so many."""
        taken: list[pa.Table] = []
        while self._parts and count > 0:
            lane, rows = self._parts[0]
            taken.append(rows.slice(0, count))
            if rows.num_rows > count:
                self._parts[0] = (lane, rows.slice(count))
            else:
                self._parts.popleft()
            count -= taken[-1].num_rows
            self.rows -= taken[-1].num_rows
        return pa.concat_tables(taken)
