"""Which offset comes next, kept beside the segments, so that an offset once given is never given again.

Two numbers in one small file per partition. `next_offset` is written after every append without waiting for the disk:
it survives the death of the process. `reserved` is on the disk before any offset beyond it is given: it survives the
death of the machine, which may take with it the last half second of records that readers have already seen.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final

RESERVE: Final = 1 << 18
"""Offsets reserved at a time: four fdatasyncs a second at a million records a second, one a day on a laptop."""
_LAYOUT: Final = struct.Struct(">qqI")


class TailMark:
    """The high-water file of one partition."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.next_offset = 0
        self.reserved = 0
        self._unreadable = False
        self._load()

    def _load(self) -> None:
        data = os.pread(self._fd, _LAYOUT.size, 0)
        if not data:
            return
        if len(data) == _LAYOUT.size and zlib.crc32(data[:16]) == _LAYOUT.unpack(data)[2]:
            self.next_offset, self.reserved, _ = _LAYOUT.unpack(data)
        else:
            self._unreadable = True

    def recover(self, scanned: int, *, machine_died: bool) -> None:
        """Settles the next offset after a start: `scanned` is the offset after the last record found.

        Whatever may have been given before is passed over: what the file says after the death of the process, the
        whole reservation after that of the machine, and more than any reservation when the file cannot be read.
        """
        if self._unreadable:
            scanned += 2 * RESERVE
        self.next_offset = max(scanned, self.next_offset, self.reserved if machine_died else 0)
        self.reserve(self.next_offset)

    def reserve(self, up_to: int) -> None:
        """Makes offsets below `up_to` safe to give.

        Raises:
            OSError: the disk refuses; nothing may be given.
        """
        if up_to <= self.reserved:
            return
        before = self.reserved
        self.reserved = up_to + RESERVE
        try:
            self._write()
            os.fdatasync(self._fd)
        except OSError:
            self.reserved = before
            raise

    def advance(self, next_offset: int) -> None:
        """Notes that every offset below `next_offset` is given."""
        self.next_offset = next_offset
        self._write()

    def _write(self) -> None:
        numbers = _LAYOUT.pack(self.next_offset, self.reserved, 0)[:16]
        os.pwrite(self._fd, numbers + struct.pack(">I", zlib.crc32(numbers)), 0)

    def close(self) -> None:
        """Puts the last state on the disk and lets go of the file."""
        os.fdatasync(self._fd)
        os.close(self._fd)
