"""Where a data folder's log ends: asked of the log where one answers, else read from the embedded log's files.

Nothing is written and no lock is taken, so a broker may start or write meanwhile: the answer is of the moment.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from contracts.topics import TOPICS
from esper.errors import CorruptState
from esper.leyline.folders import Folder
from projections.manifest import Place

_PLACE: Final = struct.Struct(">qi11xi")
"""A batch's first offset, the bytes after the first twelve, and what its last offset is above the first."""
_PREFIX_BYTES: Final = 12
_LEAST_BYTES: Final = 49
_TAIL: Final = struct.Struct(">qqI")


def log_ends(data: Path, brokers: str | None) -> dict[Place, int] | None:
    """The next offset of every topic partition of ours; None where there is no log to look at.

    `brokers` is the address of a log that runs. Raises LogUnavailable where none answers there.
    """
    if brokers:
        from streams.consumer import ends_of  # noqa: PLC0415  files need no client, which costs 0.3 s

        return ends_of(brokers, TOPICS)
    try:
        with Folder.open(data / "log") as log, log.inside("topics") as topics:
            return dict(_ends(topics))
    except FileNotFoundError:
        return None


def _ends(topics: Folder) -> Iterator[tuple[Place, int]]:
    ours = {topic.name for topic in TOPICS}
    for name in ours.intersection(topics.folders()):
        with topics.inside(name) as topic:
            for number in topic.folders():
                if number.isdigit():
                    with topic.inside(number) as partition:
                        yield (name, int(number)), _end(partition)


def _end(partition: Folder) -> int:
    """The offset after the last record of a partition, or what the broker noted, where that is more."""
    segments = [name for name in sorted(partition.files()) if name.endswith(".log") and name[:-4].isdigit()]
    end = 0
    if segments:
        with partition.open_file(segments[-1]) as file:
            end = _walked(file, int(segments[-1][:-4]))
    try:
        noted = partition.read("tail")
    except (FileNotFoundError, CorruptState):
        return end
    sound = len(noted) == _TAIL.size and zlib.crc32(noted[:16]) == _TAIL.unpack(noted)[2]
    return max(end, _TAIL.unpack(noted)[0]) if sound else end


def _walked(file: BinaryIO, end: int) -> int:
    """The offset after the last whole batch in a segment; stops at what is no batch."""
    position, size = 0, os.fstat(file.fileno()).st_size
    while position + _PLACE.size <= size:
        first, length, above = _PLACE.unpack(os.pread(file.fileno(), _PLACE.size, position))
        position += _PREFIX_BYTES + length
        if length < _LEAST_BYTES or position > size or first < end or above < 0:
            break
        end = first + above + 1
    return end
