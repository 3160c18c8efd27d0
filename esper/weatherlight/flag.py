"""The emergency flag of a run: a few bytes of shared memory that its trainer and this machine's supervisor both map.

It carries an emergency where the log does not, within the time that looking takes (R-TOL-28, R-OPS-11, R-OPS-12):

    bytes 0-63     the trainer's last signal, for the supervisor
    bytes 64-79    the deadline of the rollback that goes on now
    bytes 80-143   the last signal to the trainer, from a person

Every block ends with its CRC-32, so that one that is half written reads as none until it is whole. The file lies in the
data folder's `run/`, for its owner alone. Where there can be none, the flag is this process's own and says nothing to
others; the log still does.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "emergency-"
"""How the names of these files begin; the run's id follows."""
_SIGNAL: Final = struct.Struct("<IIQ44s")
_DEADLINE: Final = struct.Struct("<QI")
_CRC: Final = struct.Struct("<I")
FROM_TRAINER: Final = 0
DEADLINE: Final = FROM_TRAINER + _SIGNAL.size + _CRC.size
TO_TRAINER: Final = DEADLINE + _DEADLINE.size + _CRC.size
SIZE: Final = TO_TRAINER + _SIGNAL.size + _CRC.size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Raised:
    """A signal in the flag: the how manieth, its level, when it was raised (ms, monotonic), and why, cut to fit."""

    sequence: int
    level: int
    monotonic_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """By when (ns, monotonic) the how manieth rollback must have ended; 0 while none goes on."""

    by_ns: int
    sequence: int


def flag_of(run_folder: Path, run_id: str) -> Path:
    """Where a run's flag lies."""
    return run_folder / f"{PREFIX}{run_id}"


class Flag:
    """The blocks over some memory of `SIZE` bytes; `shared` says whether other processes see it."""

    def __init__(self, memory: mmap.mmap | bytearray, *, shared: bool, inode: int = 0) -> None:
        self._memory = memory
        self._inode = inode
        self.shared = shared

    @classmethod
    def make(cls, path: Path) -> Flag:
        """A flag that nobody has raised, in a new file at `path`; one of this process alone where there can be none."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)  # a mapped hole on a full disk would kill whoever writes it
                return cls(mmap.mmap(descriptor, SIZE), shared=True)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("no emergency flag at %s, only the log tells of one: %s", path, error)
            return cls(bytearray(SIZE), shared=False)

    @classmethod
    def open(cls, path: Path) -> Flag | None:
        """The flag of another process; None where there is none, or something else."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            whole = found.st_size == SIZE
            return cls(mmap.mmap(descriptor, SIZE), shared=True, inode=found.st_ino) if whole else None
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Map it no longer."""
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    def lies_at(self, path: Path) -> bool:
        """Whether the file at a path is this one, opened there before."""
        try:
            return path.stat().st_ino == self._inode
        except OSError:
            return False

    def signal(self, block: int, level: int, monotonic_ms: int, reason: str) -> None:
        """Raise a signal in one of the two blocks."""
        before = self.raised(block)
        text = reason.encode()[:44].decode(errors="ignore").encode()
        sequence = 1 if before is None else before.sequence + 1
        self._write(block, _SIGNAL.pack(sequence, level, monotonic_ms, text))

    def raised(self, block: int) -> Raised | None:
        """The last signal of a block; None where there is none yet, or one is half written."""
        found = self._read(block, _SIGNAL.size)
        if found is None:
            return None
        sequence, level, monotonic_ms, reason = _SIGNAL.unpack(found)
        return Raised(sequence, level, monotonic_ms, reason.rstrip(b"\0").decode(errors="replace"))

    def begin(self, by_ns: int) -> None:
        """A rollback begins, which must have ended by then."""
        before = self.deadline()
        self._write(DEADLINE, _DEADLINE.pack(by_ns, before.sequence + 1))

    def end(self) -> None:
        """The rollback has ended."""
        self._write(DEADLINE, _DEADLINE.pack(0, self.deadline().sequence))

    def deadline(self) -> Deadline:
        """Of the rollback that goes on."""
        found = self._read(DEADLINE, _DEADLINE.size)
        return Deadline(0, 0) if found is None else Deadline(*_DEADLINE.unpack(found))

    def _write(self, at: int, content: bytes) -> None:
        whole = content + _CRC.pack(zlib.crc32(content))
        self._memory[at : at + len(whole)] = whole

    def _read(self, at: int, size: int) -> bytes | None:
        whole = bytes(self._memory[at : at + size + _CRC.size])
        content = whole[:size]
        return content if any(content) and _CRC.unpack(whole[size:])[0] == zlib.crc32(content) else None
