"""The manifest: the one list of what the archive holds, and the commit of every change to it.

A reader sees the files that the manifest lists and no others; so a flush, a merge and a deletion each take effect in
one rename, and a row is never seen twice or missed. The next offset of every topic partition stands in the same file,
which makes the archive exactly once: rows and position change together.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from esper.errors import CorruptState, InvalidInput
from esper.leyline.folders import TEMPORARY, Folder
from esper.leyline.json_text import parsed
from esper.leyline.names import checked, digest, shown
from projections.records import Unreadable

NAME: Final = "manifest.json"
FILES: Final = "files"
"""The folder of the Parquet files inside the archive."""
SET_ASIDE: Final = "set-aside"
"""The folder inside the archive of Parquet files that lay in it and that no manifest listed (`unlisted`)."""
UNFINISHED: Final = "unfinished"
"""The folder inside the archive where merged files are written; what lies there at a start is a killed merge's."""
LOCK: Final = "lock"
"""The file that the archive's owner has locked."""
UNWRITABLE: Final = "the archive cannot be written"
"""What the archiver's last words begin with where the disk refuses."""
FORMAT: Final = 1
VERDICTS: Final = "0001_verdicts"
"""The migration that gave an archive's facts their verdicts."""
MIGRATIONS: Final = (VERDICTS,)
"""Every migration of archives, in order. An archive with another one is of a newer Esper, and is not read by guess."""
MOST_FILES: Final = 15_000
MOST_PARTITIONS: Final = 2_000
"""More are not read: merging keeps an archive of a hundred million events at a few hundred."""
MOST_BYTES: Final = 8 * 2**20
"""So much of a manifest is read; parsed it takes up to 25 times as much memory."""

Place = tuple[str, int]
"""A topic and a partition."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One Parquet file: its table, its columns' shape, and which offsets `[first, next)` of which partitions it holds.

    `level` is 0 as flushed and one more for every merge; `generation` is the manifest's in which the file appeared.
    """

    name: str
    table: str
    level: int
    rows: int
    size: int
    sha256: str
    shape: str
    generation: int
    offsets: Mapping[Place, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets `[first, next)` that the log no longer had, or never gave out, when the archive came for them."""

    topic: str
    partition: int
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The archive at one moment. `retired` are replaced files and the Unix second from which they may be deleted.

    `archive_id` is drawn once and tells an archive and its copies from others; those of earlier versions have none.
    `migrations` are the names of what was done to the files since they were first written. `undecided` and `unstarted`
    are runs, as `verdicts.Verdicts` has them. `cluster_id` is that of the log which is archived, where it says one;
    `partitions` how many each of its topics has, 0 where that was not noted; `unreadable` says of which gaps it is
    known that the log was damaged.
    """

    generation: int = 0
    next_offsets: Mapping[Place, int] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    retired: Mapping[str, float] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    archive_id: str = ""
    migrations: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    unstarted: tuple[str, ...] = ()
    cluster_id: str = ""
    partitions: int = 0
    unreadable: tuple[Unreadable, ...] = ()

    def of(self, table: str) -> list[FileEntry]:
        """The files of one table, in the order in which they appeared."""
        return [entry for entry in self.files if entry.table == table]

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(entry.rows for entry in self.files if entry.table == table)

    def swapped(self, old: frozenset[str], new: FileEntry, delete_after_s: float) -> Manifest:
        """With `new` where the first of the files called `old` stood, and those to be deleted at `delete_after_s`.

        Raises CorruptState where one of `old` is not listed or the rows differ in number: such a merge is not one.
        """
        replaced = [entry for entry in self.files if entry.name in old]
        if len(replaced) != len(old) or sum(entry.rows for entry in replaced) != new.rows:
            raise CorruptState(f"{new.name} with {new.rows} rows does not replace {sorted(old)} of the archive")
        entries: list[FileEntry] = []
        for entry in self.files:
            if entry is replaced[0]:
                entries.append(new)
            if entry.name not in old:
                entries.append(entry)
        retired = {**self.retired, **dict.fromkeys(old, delete_after_s)}
        return replace(self, files=tuple(entries), retired=retired)


Stretch = TypeVar("Stretch", Gap, Unreadable)


def joined(stretches: tuple[Stretch, ...], more: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """`stretches` and `more` of them, each of which continues the last of its partition where it can."""
    found = list(stretches)
    last = {(each.topic, each.partition): place for place, each in enumerate(found)}
    for each in more:
        before = last.get((each.topic, each.partition))
        if before is not None and replace(found[before], first=found[before].next, next=each.next) == each:
            found[before] = replace(found[before], next=each.next)
        else:
            last[each.topic, each.partition] = len(found)
            found.append(each)
    return tuple(found)


EXPORTED: Final = "export.json"
"""What lies beside the archive of an export: some runs' history, with no place on any log."""


def refuse_exports(data: Path) -> None:
    """Raises InvalidInput where a data folder is an export: what is written there would mix two logs."""
    if (data / EXPORTED).exists():
        raise InvalidInput(
            f"{data} is an export, which is read and never written: its events have no place on a log here; "
            "take another --data-dir for new runs"
        )


def covered(archive: Path) -> dict[Place, int]:
    """The next offset of every topic partition that the archive will take: everything before it is archived."""
    return dict(load(archive).next_offsets)


def load(archive: Path) -> Manifest:
    """The manifest in the folder `archive`, an empty one where there is none yet.

    Raises CorruptState for one that cannot be read: it is written whole, so this is a damaged disk or another format;
    and where there is none beside files, which is a history that lost it, and not none.
    """
    try:
        with (archive / NAME).open("rb") as file:
            return parse(file.read(MOST_BYTES + 1), str(archive / NAME))
    except FileNotFoundError:
        lying = [each for folder in (FILES, SET_ASIDE) for each in _names(archive / folder)]
        if lying and not owned(archive) and not (archive / NAME).exists():
            raise CorruptState(
                f"{archive} holds {len(lying)} files and no {NAME} that lists them: restore it from a copy or end the "
                "copy that was broken off; or let `esper up` read the kept log again, which sets the files aside, "
                "deletes none, and takes from them what has left the log"
            ) from None
        return Manifest()


def load_or_empty(archive: Path) -> Manifest:
    """The manifest for the archive's owner, who knows what to do with files that none lists."""
    try:
        return parse((archive / NAME).read_bytes(), str(archive / NAME))
    except FileNotFoundError:
        return Manifest()


def owned(archive: Path) -> bool:
    """Whether an archiver, or who else owns the archive, has its lock."""
    try:
        with (archive / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(TEMPORARY)]  # noqa: PTH208 - names are all
    except OSError:
        return []


@lru_cache(maxsize=4)
def parse(content: bytes, where: str) -> Manifest:
    """A manifest's bytes; raises CorruptState, with the place `where`, for what is none or is of a newer Esper.

    A reader looks at each query and mostly finds the same: the last ones are remembered, which saves 3 ms at 200 files.
    """
    try:
        value = parsed(content, MOST_BYTES)
        if newer := _newer(value):
            raise CorruptState(
                f"the archive's manifest {where} is of a newer Esper ({newer}): read it with that one, or what was "
                "copied before it was upgraded with this one (docs/releases.md)"
            )
        return _from_json(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(
            f"the archive's manifest {where} cannot be read ({type(error).__name__}: {error}): "
            "restore it from a copy, or move it away: `esper up` then reads the kept log again and takes from the "
            "files what has left it"
        ) from None


def save(archive: Path, manifest: Manifest) -> None:
    """Replace the manifest in the folder `archive`; durable when this returns."""
    with Folder.open(archive) as folder:
        folder.write(NAME, as_bytes(manifest))


def stamp(archive: Path) -> tuple[int, int, int] | None:
    """What tells the manifest's file from another that is put in its place; None where there is none."""
    try:
        found = (archive / NAME).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def as_bytes(manifest: Manifest) -> bytes:
    """A manifest as it is stored."""
    return json.dumps(_to_json(manifest), separators=(",", ":")).encode()


def entry_to_json(entry: FileEntry) -> dict[str, Any]:
    """A file entry as JSON types; offsets are `[topic, partition, first, next]`."""
    return {
        "name": entry.name,
        "table": entry.table,
        "level": entry.level,
        "rows": entry.rows,
        "size": entry.size,
        "sha256": entry.sha256,
        "shape": entry.shape,
        "generation": entry.generation,
        "offsets": [[*place, *bounds] for place, bounds in entry.offsets.items()],
    }


def entry_from_json(value: Mapping[str, Any]) -> FileEntry:
    """The way back; raises ValueError where a name is none, or a number is none."""
    offsets = {
        (_name(topic, "topic"), _number(partition)): (_number(first), _number(end))
        for topic, partition, first, end in value["offsets"]
    }
    return FileEntry(
        name=_name(value["name"], "file"),
        table=_name(value["table"], "table"),
        level=_number(value["level"]),
        rows=_number(value["rows"]),
        size=_number(value["size"]),
        sha256=digest(value["sha256"], "the checksum", NAME),
        shape=_name(value["shape"], "shape"),
        generation=_number(value["generation"]),
        offsets=offsets,
    )


def _name(value: Any, what: str) -> str:
    return checked(value, f"the {what}", NAME)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{shown(value)} is no number of that kind")
    return int(value)


def _unreadable(value: Any) -> Unreadable:
    topic, partition, first, following, why, file = value
    place = (_name(topic, "topic"), _number(partition))
    return Unreadable(*place, _number(first), _number(following), str(why), str(file))


def _seconds(value: Any) -> float:
    if type(value) not in {int, float}:
        raise ValueError(f"{shown(value)} is no time")
    return float(value)


def _partitions(value: Any) -> int:
    """How many partitions a topic has: every reader makes something for each."""
    if _number(value) > MOST_PARTITIONS:
        raise ValueError(f"{value} partitions; a topic has {MOST_PARTITIONS} at most")
    return int(value)


def _run(value: Any) -> str:
    """A run's id, which may be any text that a log gave, and becomes no path."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no run's id")  # noqa: TRY004 - damage of a file
    return value


def _to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "archive_id": manifest.archive_id,
        "cluster_id": manifest.cluster_id,
        "partitions": manifest.partitions,
        "migrations": list(manifest.migrations),
        "undecided": list(manifest.undecided),
        "unstarted": list(manifest.unstarted),
        "generation": manifest.generation,
        "next_offsets": [[*place, offset] for place, offset in manifest.next_offsets.items()],
        "files": [entry_to_json(entry) for entry in manifest.files],
        "retired": dict(manifest.retired),
        "gaps": [[gap.topic, gap.partition, gap.first, gap.next] for gap in manifest.gaps],
        "unreadable": [
            [each.topic, each.partition, each.first, each.next, each.why, each.file] for each in manifest.unreadable
        ],
    }


def _newer(value: Mapping[str, Any]) -> str:
    """What a later version did to an archive that this one cannot know; empty where nothing is."""
    if _number(value["format"]) > FORMAT:
        return f"format {value['format']}; this one reads {FORMAT}"
    unknown = [_name(name, "migration") for name in value.get("migrations", ()) if name not in MIGRATIONS]
    return f"migration {unknown[0]}, which this one does not know" if unknown else ""


def _from_json(value: Mapping[str, Any]) -> Manifest:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']}; this Esper reads {FORMAT}")
    if len(value["files"]) > MOST_FILES:
        raise ValueError(f"{len(value['files'])} files; an archive that is merged has a few thousand at most")
    return Manifest(
        generation=_number(value["generation"]),
        next_offsets={
            (_name(topic, "topic"), _number(partition)): _number(offset)
            for topic, partition, offset in value["next_offsets"]
        },
        files=tuple(entry_from_json(entry) for entry in value["files"]),
        retired={_name(name, "replaced file"): _seconds(at_s) for name, at_s in value["retired"].items()},
        gaps=tuple(Gap(_name(topic, "topic"), *map(_number, numbers)) for topic, *numbers in value["gaps"]),
        archive_id=str(value.get("archive_id", "")),
        cluster_id=str(value.get("cluster_id", "")),
        partitions=_partitions(value.get("partitions", 0)),
        migrations=tuple(_name(name, "migration") for name in value.get("migrations", ())),
        undecided=tuple(map(_run, value.get("undecided", ()))),
        unstarted=tuple(map(_run, value.get("unstarted", ()))),
        unreadable=tuple(map(_unreadable, value.get("unreadable", ()))),
    )
