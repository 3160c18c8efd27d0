"""The log's folder, which may be a stranger's or pieced together from copies: what in it is ours, and what it says.

No symbolic link below it is followed: one in our place is refused, any other is named and left alone, as is every name
that is none of ours. Each topic's folder has a note of what the topic is (`topic.json`), so that the registry can be
made again; what both know is settled here.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import stat
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from esper.errors import LogUnavailable
from streams.broker.protocol import Refused
from streams.broker.registry import DEFAULTS, MAX_PARTITIONS, TopicRow, parsed, write_durably, write_whole

_LOG: Final = logging.getLogger(__name__)
TOPIC_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_NOTE: Final = "topic.json"
_FOLDERS: Final = ("topics", "deleted")
_FILES: Final = (
    *("lock", "owner", "boot", "boot.draft", "cluster", "cluster.draft", "producer-ids", "producer-ids.draft"),
    "secret",
    *("meta.db", "meta.db-wal", "meta.db-shm", "broker.log"),
)
_IN_PARTITION: Final = re.compile(r"\d{20}\.(index|draft)|\d{20}\.\d+\.cut|tail")
_SEGMENT: Final = re.compile(r"\d{20}\.log")
_GRAVE: Final = re.compile(r"(.+)\.\d+")
_NUMBER: Final = re.compile(r"0|[1-9]\d{0,4}")
_CLUSTER: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_LAST_OFFSET: Final = 2**63 - 1
TAIL_ID_AT: Final = 20
_TAIL_ID: Final = struct.Struct(">16sI")
_MOST_SEGMENT: Final = 2**31 + 64 * 1024 * 1024
"""Bytes of the greatest segment that can be set, and a batch; a stranger's sparse file of terabytes is not read."""
_NOTE_BYTES: Final = 1024 * 1024
_SMALL_BYTES: Final = 256
FOR_EVER: Final = "-1"


def valid_name(name: str) -> bool:
    """Whether a topic may be called so (Kafka's rule, which also makes it a safe folder name)."""
    return TOPIC_NAME.fullmatch(name) is not None and name not in {".", ".."}


def refuse_links(folder: Path) -> None:
    """Everything that we use in the log's folder is of its own kind, or is not there yet.

    Raises:
        LogUnavailable: something is not; its target would be written to, or emptied.
    """
    for name, right in [*((name, stat.S_ISDIR) for name in _FOLDERS), *((name, stat.S_ISREG) for name in _FILES)]:
        try:
            mode = os.lstat(folder / name).st_mode
        except FileNotFoundError:
            continue
        if not right(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "not a folder" if name in _FOLDERS else "not a file"
            raise LogUnavailable(f"{folder / name} is {what}: the log follows none and starts without: move it away")


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a plain file.

    Raises:
        LogUnavailable: it is a link, a pipe, a socket, or a folder.
        OSError: as `os.open`.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise LogUnavailable(f"{path} is no plain file: move it away")
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def read_small(path: Path) -> str:
    """What one of our notes says, without the space around it; "" where there is none.

    Raises:
        LogUnavailable: it is no plain file.
    """
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            return file.read(_SMALL_BYTES).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


def segments_in(folder: Path) -> list[Path]:
    """A partition's segments in order. Names that are none of ours are named and stepped over."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        plain = entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size <= _MOST_SEGMENT
        if plain and _SEGMENT.fullmatch(entry.name) and int(entry.name[:20]) <= _LAST_OFFSET:
            found.append(Path(entry.path))
        elif not (plain and _IN_PARTITION.fullmatch(entry.name)):
            step_over(entry.path)
    return found


def step_over(path: str | Path) -> None:
    """Says that `path` is none of ours."""
    _LOG.warning("%s is nothing that this log has written: it is left alone and not read", path)


def graves(deleted: Path) -> Iterator[tuple[str, Path]]:
    """The topics being deleted, and their folders."""
    for entry in sorted(os.scandir(deleted), key=lambda entry: entry.name):
        grave = _GRAVE.fullmatch(entry.name)
        if grave and entry.is_dir(follow_symlinks=False):
            yield grave[1], Path(entry.path)
        else:
            step_over(entry.path)


def topic_folders(topics: Path) -> dict[str, Path]:
    """The folders that can be a topic's, by name; whatever else is there is named."""
    found = {}
    for entry in sorted(os.scandir(topics), key=lambda entry: entry.name):
        folder = Path(entry.path)
        if valid_name(entry.name) and entry.is_dir(follow_symlinks=False) and not _foreign_partition(folder):
            found[entry.name] = folder
        else:
            step_over(folder)
    return found


def _foreign_partition(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_NUMBER.fullmatch(e.name) and not e.is_dir(follow_symlinks=False) for e in entries)


def is_free(topics: Path, name: str) -> bool:
    """Whether a topic can be made here: what already stands in its place holds no records and is a plain folder."""
    folder = topics / name
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return False
    return not folder.exists() or not (_foreign_partition(folder) or _has_records(folder))


def _has_records(folder: Path) -> bool:
    return any(path.lstat().st_size for path in folder.glob("*/*.log") if path.parent.name.isdigit())


def partitions_in(folder: Path) -> int:
    """How many partitions, numbered from 0 without a gap, a topic's folder has."""
    numbers = {int(path.name) for path in folder.iterdir() if _NUMBER.fullmatch(path.name)}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def settled(name: str, row: TopicRow | None, folder: Path) -> TopicRow | None:
    """What a topic is, by the registry, its folder's note and its folder; None where the folder is no topic yet.

    The note is right about the id, since it lies with the records. The greater number of partitions is right, and
    the longer retention: whichever of the two is old, nothing is hidden or dropped that the newer one keeps.
    """
    note = read_note(folder, name)
    counted = partitions_in(folder)
    if note is None and row is None:
        if not _has_records(folder):
            return None
        _LOG.warning("topic %s: neither registry nor note know its settings: it keeps its records for ever", name)
        return TopicRow(name, counted, {"retention.ms": FOR_EVER}, new_id())
    known = [each for each in (note, row) if each is not None]
    count = max(counted, *(each.partitions for each in known))
    configs = dict(known[0].configs)
    if len(known) > 1:
        configs |= _kept_longest(*(each.configs for each in known))
    topic_id = next((each.id for each in known if each.id), "") or min(_tail_ids(folder), default="") or new_id()
    return TopicRow(name, min(count, MAX_PARTITIONS), configs, topic_id)


def of_one_topic(name: str, row: TopicRow, folder: Path) -> bool:
    """Whether all that bears the id bears the same one: else what the registry says of offsets is of other records.

    A registry without the id beside a folder with it is older than the folder.
    """
    note = read_note(folder, name)
    lying_here = ({note.id if note else ""} | _tail_ids(folder)) - {""}
    return not lying_here or lying_here == {row.id}


def _tail_ids(folder: Path) -> set[str]:
    return {tail_id(path) for path in folder.glob("*/tail") if _NUMBER.fullmatch(path.parent.name)} - {""}


def tail_id(path: Path) -> str:
    """The topic's id as a partition's tail has it, behind the offsets; "" where it has none."""
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            file.seek(TAIL_ID_AT)
            data = file.read(_TAIL_ID.size)
    except (OSError, LogUnavailable):
        return ""
    if len(data) < _TAIL_ID.size or zlib.crc32(data[:16]) != _TAIL_ID.unpack(data)[1]:
        return ""
    return str(uuid.UUID(bytes=data[:16]))


def packed_id(topic_id: str) -> bytes:
    """The id as it stands in a tail, from `TAIL_ID_AT` on."""
    data = uuid.UUID(topic_id).bytes
    return _TAIL_ID.pack(data, zlib.crc32(data))


def _kept_longest(*configs: Mapping[str, str]) -> dict[str, str]:
    values = [each.get("retention.ms", DEFAULTS["retention.ms"]) for each in configs]
    return {} if len(set(values)) == 1 else {"retention.ms": max(values, key=lambda v: int(v) % 2**64)}


def new_id() -> str:
    """Of a topic; another for one that is made again under the same name."""
    return str(uuid.uuid4())


def read_note(folder: Path, name: str) -> TopicRow | None:
    """The note in a topic's folder; None where there is none that can be believed."""
    path = folder / _NOTE
    if not path.exists() and not path.is_symlink():
        return None
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            row = _row(json.loads(file.read(_NOTE_BYTES)), name)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, LogUnavailable, Refused) as error:
        _LOG.warning("%s cannot be used (%s): it is made again", path, error)
        return None
    return row


def _row(note: Any, name: str) -> TopicRow:
    row = TopicRow(name, note["partitions"], note["configs"], str(uuid.UUID(note["id"])))
    if note["topic"] != name or note["crc"] != _crc(row) or not 1 <= row.partitions <= MAX_PARTITIONS:
        raise ValueError("it is damaged, or another topic's")
    parsed(row.configs)
    return row


def write_note(folder: Path, row: TopicRow) -> None:
    """Puts the note in a topic's folder. The registry is what is on the disk before anybody relies on it."""
    note = {"topic": row.name, "id": row.id, "partitions": row.partitions, "configs": row.configs, "crc": _crc(row)}
    write_whole(folder / _NOTE, json.dumps(note) + "\n")


def drop_note(folder: Path) -> None:
    """The folder is no topic's after all."""
    (folder / _NOTE).unlink(missing_ok=True)


def _crc(row: TopicRow) -> int:
    return zlib.crc32(json.dumps([row.name, row.id, row.partitions, row.configs], sort_keys=True).encode())


def cluster_id(folder: Path, registered: str) -> str:
    """The id of this log, drawn when it is first opened; kept in `cluster`, and by the registry (`registered`).

    The file is right where they differ: it lies with the records, and the registry may have come from another log.
    """
    path = folder / "cluster"
    written = read_small(path)
    if _CLUSTER.fullmatch(written):
        return written
    found = registered or base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    write_durably(path, found + "\n")
    return found
