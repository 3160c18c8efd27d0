"""A damaged file of the archive made sound again: from a copy that has the same file, or from the log.

What is damaged is set aside in `damaged/`, beside `files/`, and never deleted.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from esper.errors import CorruptState, InvalidInput
from esper.leyline.folders import Folder as HeldFolder
from esper.leyline.signing import KeyRing
from projections import manifest
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.decode import decode
from projections.manifest import FILES, FileEntry, Manifest, Place
from projections.records import Batch, Unreadable
from projections.verdicts import Verdicts
from projections.verify import damaged

ASIDE: Final = "damaged"
"""The folder of the archive for what was replaced by a repair."""


def damaged_file(archive: Path, name: str) -> FileEntry:
    """The entry of a damaged file that a person names; raises InvalidInput where there is none, or it is sound."""
    listed = manifest.load(archive).files
    known = [entry for entry in listed if entry.name == name]
    if not known:
        bad = ", ".join(each.name for each in damaged(archive, listed)) or "none is known to be damaged"
        raise InvalidInput(f"{archive} lists no file {name!r}; damaged: {bad}; `esper archive verify` reads them all")
    if not damaged(archive, known, trust_cache=False):
        raise InvalidInput(f"{name} is sound: its bytes are those that were written")
    return known[0]


def from_copy(archive: Path, entry: FileEntry, copy: Folder) -> Path | None:
    """Put the copy's file in the place of a damaged one; where that lies now, or None where it had gone.

    Raises InvalidInput where the copy has no such file, or a damaged one too.
    """
    digest, pieces = hashlib.sha256(), copy.pieces(f"{FILES}/{entry.name}")
    with HeldFolder.open(archive) as held, held.inside(FILES) as folder, folder.writing(entry.name) as file:
        while piece := _next(copy, entry, pieces):
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != entry.sha256:
            raise InvalidInput(f"{entry.name} in {copy.address} is damaged too: take another copy, or ask the log")
        return _set_aside(archive, entry.name)


def _next(copy: Folder, entry: FileEntry, pieces: Iterator[bytes]) -> bytes:
    """The next piece of the copy's file, none at its end."""
    try:
        return next(pieces, b"")
    except OSError as error:
        raise InvalidInput(
            f"{copy.address} has no {entry.name} ({error}): a copy that was made before or after the merge of its "
            "files holds them under other names; take another copy, or leave out --from to ask the log"
        ) from None


def missing(archive: Path, listed: Manifest, entry: FileEntry) -> dict[Place, tuple[int, int, set[int]]]:
    """What of the log the file held: a stretch of each partition, and the offsets in it that other files hold."""
    others = [each for each in listed.of(entry.table) if each.name != entry.name]
    bad = {each.name for each in damaged(archive, others)}
    wanted: dict[Place, tuple[int, int, set[int]]] = {
        place: (first, end, set()) for place, (first, end) in entry.offsets.items()
    }
    columns = ["log_topic", "log_partition", "log_offset"]
    for other in others:
        if other.name not in bad and _touches(other.offsets, entry.offsets):
            rows = pq.read_table(archive / FILES / other.name, columns=columns)
            for topic, partition, offset in zip(*(rows[name].to_pylist() for name in columns), strict=True):
                if (topic, partition) in wanted:
                    wanted[topic, partition][2].add(offset)
    return wanted


def from_records(
    owned: Archive, entry: FileEntry, batches: Iterable[Batch | Unreadable], keys: KeyRing | None, now_s: float
) -> Path | None:
    """Put a file of the rows that `batches` of the log give into the place of a damaged one; where that lies now.

    Facts are left to the reader to judge, as those of forks are. Raises CorruptState where the log does not give all.
    """
    wanted = missing(owned.folder, owned.manifest, entry)
    held = [_of(batch, wanted) for batch in batches if isinstance(batch, Batch)]
    table = decode(held, keys, Undecided(), sys.maxsize).get(entry.table)
    rows = 0 if table is None else table.num_rows
    if table is None or rows != entry.rows:
        raise CorruptState(
            f"the log holds {rows} of the {entry.rows} events that were in {entry.name}: nothing is changed; "
            "name a copy of the archive with --from"
        )
    aside = _set_aside(owned.folder, entry.name)
    undecided = set(table["run_id"].to_pylist()) if "log_verdict" in table.column_names else set()
    owned.put_back(entry, table, undecided, now_s)
    return aside


class Undecided(Verdicts):
    """Leaves every fact to the reader."""

    def __init__(self) -> None:
        super().__init__(None, lambda _run_id: None)


def _of(batch: Batch, wanted: Mapping[Place, tuple[int, int, Collection[int]]]) -> Batch:
    first, end, held = wanted.get((batch.topic, batch.partition), (0, 0, ()))
    return batch.at(i for i, offset in enumerate(batch.offsets) if first <= offset < end and offset not in held)


def _touches(one: Mapping[Place, tuple[int, int]], other: Mapping[Place, tuple[int, int]]) -> bool:
    nowhere = (0, 0)
    return any(
        first < other.get(place, nowhere)[1] and other.get(place, nowhere)[0] < end
        for place, (first, end) in one.items()
    )


def _set_aside(archive: Path, name: str) -> Path | None:
    """Move a file out of the way; None where it is not there."""
    with (
        HeldFolder.open(archive) as held,
        held.inside(FILES) as folder,
        held.inside(ASIDE, make=True) as aside,
    ):
        target = name if not (archive / ASIDE / name).exists() else f"{secrets.token_hex(4)}-{name}"
        try:
            folder.move(name, aside, target)
        except FileNotFoundError:
            return None
        aside.sync()
        folder.sync()
    return archive / ASIDE / target
