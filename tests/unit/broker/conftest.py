"""Record batches made by aiokafka, and partitions in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from streams.broker.batch import checked, header
from streams.broker.partition import Partition, PartitionState

SEGMENT_BYTES = 4096
MAX_BATCH = 1 << 20


def make_batch(
    *values: bytes, producer: tuple[int, int, int] = (-1, -1, -1), timestamp: int = 1_000, codec: int = 0
) -> bytes:
    """One batch of `values`; `producer` is id, epoch and first sequence."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, *producer, MAX_BATCH)
    for number, value in enumerate(values):
        builder.append(number, timestamp + number, None, value, [])
    return bytes(builder.build())


def read_values(data: bytes) -> list[tuple[int, bytes]]:
    """Offsets and values of whole batches, checked as a client checks them."""
    found = []
    while data:
        size = 12 + int.from_bytes(data[8:12], "big")
        batch = DefaultRecordBatch(bytearray(data[:size]))
        assert batch.validate_crc(), "a client would refuse this batch"
        found += [(record.offset, record.value) for record in batch]
        data = data[size:]
    return found


def fill(log: Log, count: int, size: int = 300) -> None:
    """`count` batches of one record, numbered."""
    for number in range(count):
        log.append(b"%06d" % number + b"x" * size)


def flip(path: Path, position: int) -> None:
    """Changes one byte, as a bad disk does."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


class Log:
    """A partition as the broker drives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.partition = self._open(machine_died=False)

    def _open(self, *, machine_died: bool) -> Partition:
        return Partition(self.folder, "t-0", PartitionState(machine_died, 0, 5_000))

    def append(self, *values: bytes, **options) -> int:
        records = make_batch(*values, **options)
        return self.partition.append(records, checked(records, MAX_BATCH), 5_000, SEGMENT_BYTES)

    def read(self, offset: int, max_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
        return read_values(self.partition.read(offset, max_bytes))

    def read_all(self) -> list[tuple[int, bytes]]:
        found, offset = [], self.partition.start
        while offset < self.partition.end:
            more = [each for each in self.read(offset) if each[0] >= offset]
            found += more
            offset = self.behind(offset)
        return found

    def behind(self, offset: int) -> int:
        """Where a client goes on that has read from `offset` on: behind the last batch, also one without records."""
        data, at = self.partition.read(offset, 1 << 20), 0
        while at < len(data):
            batch = header(data, at)
            assert batch.next_offset > offset, "a client would read this again for ever"
            at, offset = at + batch.size, batch.next_offset
        return offset

    def crash(self, *, machine_died: bool = False, damage: Callable[[Path], None] | None = None) -> None:
        """Opens the folder again as after `kill -9`: nothing was closed or synced, and `damage` was done to it."""
        abandoned = self.partition
        if damage is not None:
            damage(self.folder)
        self.partition = self._open(machine_died=machine_died)
        abandoned.close()  # the dead process's descriptors; what it held in memory is not written

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "t" / "0")
    yield log
    log.partition.close()


@pytest.fixture
def log_in() -> type[Log]:
    """Opens a log in a folder; the caller closes its partition."""
    return Log


@pytest.fixture
def batch_of() -> Callable[..., bytes]:
    return make_batch


@pytest.fixture
def values_of() -> Callable[[bytes], list[tuple[int, bytes]]]:
    return read_values
