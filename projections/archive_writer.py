"""The archive's one writer: puts records into Parquet files, commits them with their position, swaps merged files.

The order of every change: write the files, sync them, sync their folder, replace the manifest. Killed between any two
of these, the next owner finds the old manifest or the new one, removes what the killed flush left and goes on from the
offsets that are listed: nothing is lost and nothing is doubled.

Encodings are chosen for what events are made of: ids are random, so a dictionary of them only costs; numbers that count
up pack well as differences; floats compress better with their bytes split into streams. lz4, because it takes half the
time of zstd level 1 for a fifth more bytes, and compaction rewrites these files soon, with zstd.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from esper.errors import CorruptState, InvalidInput
from esper.leyline.signing import KeyRing
from esper.record.accept import Fact
from projections import archive_migrations, files, manifest
from projections.columns import INVALID, ROW_GROUP, shape_of
from projections.decode import TooMuch, decode
from projections.manifest import FILES, FileEntry, Gap, Manifest, Place
from projections.records import Batch, Record, Unreadable, batches_of
from projections.verdicts import FACT_TABLES, Verdicts, archived_facts
from projections.verify import damaged

KEEP_REPLACED_S: Final = 600.0
"""How long a replaced file stays for readers that hold an older manifest: longer than any query takes."""

WRITERS: Final = 4
"""Files that are encoded and synced at once: a flush has one for every body type."""

LOCK: Final = "lock"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one flush did; `lost` are offsets that the log jumped over, among them those that are `unreadable`."""

    rows: int
    invalid: int
    files: int
    lost: int = 0
    unreadable: int = 0


class Archive:
    """The archive folder, owned by this process until `close`.

    Raises InvalidInput where another process owns it. `keys` verify every record's signature where they are given.
    `now_s` is the Unix time. An archive of an earlier Esper is migrated.
    """

    def __init__(self, folder: Path, keys: KeyRing | None = None, now_s: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._keys = keys
        (folder / FILES).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InvalidInput(f"another archiver writes {folder}: stop it, or give this one its own folder") from None
        try:
            self.manifest: Manifest = manifest.load(folder)
            self.orphans_removed: int = self._remove_orphans()
            self._migrate(now_s)
            self._verdicts = self._new_verdicts()
        except BaseException:
            self._lock.release()
            raise
        self._writers = ThreadPoolExecutor(max_workers=WRITERS, thread_name_prefix="archive-file")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process own the archive. Nothing is pending: every call commits before it returns."""
        self._writers.shutdown()
        self._lock.release()

    def append(self, records: Sequence[Record]) -> Flushed:
        """Archive `records` and their position in one step; they must follow what is archived, partition by partition.

        Offsets that are already archived are left out, so a repeated fetch does no harm; offsets that were jumped over
        are noted as gaps. Returns when everything is durable and readable.
        """
        return self.take(batches_of(records))

    def take(self, batches: Iterable[Batch | Unreadable]) -> Flushed:
        """The same for records in batches, as the log gives them in bulk, and for what of it cannot be read.

        The offsets of that count as archived, are a gap, and stand in the manifest with the reason.
        """
        given = list(batches)
        fresh, next_offsets, gaps, unreadable = self._fresh(given)
        if not fresh and not unreadable:
            return Flushed(0, 0, 0)
        try:
            tables, entries = self._written(fresh) if fresh else ({}, [])
            self._commit(
                replace(
                    self.manifest,
                    next_offsets=next_offsets,
                    files=self.manifest.files + tuple(entries),
                    gaps=manifest.joined(self.manifest.gaps, gaps),
                    unreadable=manifest.joined(self.manifest.unreadable, unreadable),
                    undecided=_and(self.manifest.undecided, self._verdicts.undecided),
                    unstarted=_and(self.manifest.unstarted, self._verdicts.unstarted),
                )
            )
        except TooMuch:  # nothing was judged yet
            return _sum(self.take(half) for half in _halves(given))
        except BaseException:
            self._verdicts = self._new_verdicts()  # what was judged is not archived
            raise
        self._verdicts.trim()
        invalid = tables[INVALID].num_rows if INVALID in tables else 0
        lost = sum(gap.next - gap.first for gap in gaps)
        damaged = sum(each.next - each.first for each in unreadable)
        return Flushed(sum(map(len, fresh)), invalid, len(entries), lost, damaged)

    def _written(self, fresh: Sequence[Batch]) -> tuple[dict[str, pa.Table], list[FileEntry]]:
        """The tables of new records, and their files, synced."""
        generation = self.manifest.generation + 1
        tables = decode(fresh, self._keys, self._verdicts)
        # Encoding and syncing release the interpreter, and files that are synced together share the disk's journal.
        entries = list(self._writers.map(lambda name: self._write(name, tables[name], generation), sorted(tables)))
        files.sync_folder(self.folder / FILES)
        return tables, entries

    def swap(self, old: frozenset[str], new: FileEntry, now_s: float) -> bool:
        """Put a merged file in the place of those that it was made of; False where the proposal does not fit.

        The merged file must lie in the folder already, synced. One that does not fit is deleted.
        """
        try:
            swapped = self.manifest.swapped(old, new, now_s + KEEP_REPLACED_S)
        except CorruptState:
            (self.folder / FILES / new.name).unlink(missing_ok=True)
            return False
        files.sync_folder(self.folder / FILES)
        self._commit(replace(swapped, files=tuple(self._stamped(entry, new) for entry in swapped.files)))
        return True

    def put_back(self, old: FileEntry, table: pa.Table, undecided: set[str], now_s: float) -> FileEntry:
        """Put a file of `table` in the place of a damaged one that was set aside; runs `undecided` are the reader's."""
        new = self._write(old.table, table, self.manifest.generation + 1)
        files.sync_folder(self.folder / FILES)
        swapped = self.manifest.swapped(frozenset({old.name}), new, now_s + KEEP_REPLACED_S)
        self._commit(replace(swapped, undecided=_and(self.manifest.undecided, undecided)))
        return new

    def delete_retired(self, now_s: float) -> int:
        """Delete replaced files whose time has come; how many."""
        due = [name for name, at_s in self.manifest.retired.items() if at_s <= now_s]
        if due:
            for name in due:
                (self.folder / FILES / name).unlink(missing_ok=True)
            kept = {name: at_s for name, at_s in self.manifest.retired.items() if at_s > now_s}
            self._commit(replace(self.manifest, retired=kept))
        return len(due)

    def _stamped(self, entry: FileEntry, new: FileEntry) -> FileEntry:
        return replace(entry, generation=self.manifest.generation + 1) if entry is new else entry

    def _commit(self, changed: Manifest) -> None:
        archive_id = changed.archive_id or secrets.token_hex(8)
        committed = replace(changed, generation=self.manifest.generation + 1, archive_id=archive_id)
        manifest.save(self.folder, committed)
        self.manifest = committed

    def _fresh(
        self, batches: Iterable[Batch | Unreadable]
    ) -> tuple[list[Batch], Mapping[Place, int], list[Gap], list[Unreadable]]:
        """The records that are not archived yet, the offsets after them, and what was jumped over on the way."""
        ends = dict(self.manifest.next_offsets)
        fresh: list[Batch] = []
        gaps: list[Gap] = []
        unreadable: list[Unreadable] = []
        for batch in batches:
            place = (batch.topic, batch.partition)
            end = ends.get(place, 0)
            if isinstance(batch, Unreadable):
                if batch.next > end:
                    gaps.append(Gap(*place, end, batch.next))
                    ends[place] = batch.next
                if batch.next > self.manifest.next_offsets.get(place, 0):
                    unreadable.append(batch)
                continue
            offsets = batch.offsets
            new = batch
            if not offsets or offsets[0] != end or offsets[-1] + 1 - end != len(offsets):
                places, jumps, end = _new(offsets, end)
                gaps += (Gap(*place, *jump) for jump in jumps)
                new = batch.at(places)
            else:
                end = offsets[-1] + 1
            if len(new):
                ends[place] = end
                fresh.append(new)
        return fresh, ends, gaps, unreadable

    def _write(self, name: str, table: Any, generation: int) -> FileEntry:
        content = encode(table)
        file = f"{name}-{generation:09d}.parquet"
        files.write_synced(self.folder / FILES / file, content)
        return FileEntry(
            name=file,
            table=name,
            level=0,
            rows=table.num_rows,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            shape=shape_of(name),
            generation=generation,
            offsets=_offsets(table),
        )

    def _migrate(self, now_s: Callable[[], float]) -> None:
        migrated = archive_migrations.migrate(self.folder, self.manifest, now_s() + KEEP_REPLACED_S)
        if migrated.files:
            if migrated is not self.manifest:
                self._commit(migrated)
        else:
            self.manifest = migrated  # an empty archive has no manifest before its first flush

    def _new_verdicts(self) -> Verdicts:
        """What judges the next facts: it knows which runs began, and counts a run's archived facts when it goes on."""

        def archived(run_id: str) -> list[Fact] | None:
            held = [entry for entry in self.manifest.files if entry.table in FACT_TABLES]
            return archived_facts(self.folder, held, run_id)

        return Verdicts(self._runs(), archived)

    def _runs(self) -> set[str] | None:
        """The runs of which facts are archived already, None where a file that would tell is damaged."""
        entries = self.manifest.of("run_started")
        for damage in damaged(self.folder, entries):
            _log.warning("%s: every run's facts are looked for", damage)
            return None
        paths = [self.folder / FILES / entry.name for entry in entries]
        try:
            started = {run for path in paths for run in pq.read_table(path, columns=["run_id"])["run_id"].to_pylist()}
        except (OSError, pa.ArrowException) as error:
            _log.warning("the archive's list of runs is damaged (%s): every run's facts are looked for", error)
            return None
        return started | set(self.manifest.unstarted)

    def _remove_orphans(self) -> int:
        """Delete what a killed flush or merge left behind."""
        listed = {entry.name for entry in self.manifest.files} | set(self.manifest.retired)
        orphans = [path for path in (self.folder / FILES).iterdir() if path.name not in listed]
        for path in orphans:
            path.unlink()
        return len(orphans)


def _and(runs: tuple[str, ...], more: set[str]) -> tuple[str, ...]:
    return runs if more <= set(runs) else tuple(sorted(more.union(runs)))


def _halves(given: list[Batch | Unreadable]) -> tuple[list[Batch | Unreadable], list[Batch | Unreadable]]:
    """What was given, in two parts; a single batch by its records."""
    if len(given) > 1:
        return given[: len(given) // 2], given[len(given) // 2 :]
    (batch,) = given
    assert isinstance(batch, Batch)
    middle = len(batch) // 2
    return [batch.at(range(middle))], [batch.at(range(middle, len(batch)))]


def _sum(parts: Iterable[Flushed]) -> Flushed:
    """What several flushes did."""
    return Flushed(*(sum(counts) for counts in zip(*(astuple(each) for each in parts), strict=True)))


def _new(offsets: Sequence[int], end: int) -> tuple[list[int], list[tuple[int, int]], int]:
    """Which of `offsets` are at or after `end` and count up, what they jump over, and the offset after the last."""
    places: list[int] = []
    jumps: list[tuple[int, int]] = []
    for place, offset in enumerate(offsets):
        if offset < end:
            continue
        if offset > end:
            jumps.append((end, offset))
        places.append(place)
        end = offset + 1
    return places, jumps, end


def _offsets(table: Any) -> dict[Place, tuple[int, int]]:
    """First and next offset of every topic partition in a table of the archive."""
    columns = ["log_topic", "log_partition"]
    bounds = table.select([*columns, "log_offset"]).group_by(columns).aggregate([("log_offset", "min_max")])
    return {
        (row["log_topic"], row["log_partition"]): (
            row["log_offset_min_max"]["min"],
            row["log_offset_min_max"]["max"] + 1,
        )
        for row in bounds.to_pylist()
    }


def encode(table: pa.Table) -> bytes:
    """`table` as a Parquet file."""
    dictionary, encodings = _encodings(table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="lz4",
        use_dictionary=dictionary,
        column_encoding=encodings,
        store_schema=False,
        data_page_version="1.0",
    )
    return bytes(memoryview(sink.getvalue()))


@cache
def _encodings(schema: pa.Schema) -> tuple[list[str], dict[str, str]]:
    """The leaf columns that get a dictionary, and the encodings of the others, by their paths in the file."""
    dictionary: list[str] = []
    encodings: dict[str, str] = {}
    for path, type_ in _leaves("", pa.struct(list(schema))):
        if pa.types.is_string(type_):
            dictionary.append(path)
        elif pa.types.is_floating(type_):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(type_) or pa.types.is_timestamp(type_):
            encodings[path] = "DELTA_BINARY_PACKED"
    return dictionary, encodings


def _leaves(path: str, type_: Any) -> list[tuple[str, Any]]:
    if pa.types.is_struct(type_):
        children = [(f"{path}.{child.name}" if path else child.name, child.type) for child in type_]
    elif pa.types.is_map(type_):
        children = [(f"{path}.key_value.key", type_.key_type), (f"{path}.key_value.value", type_.item_type)]
    elif pa.types.is_list(type_):
        children = [(f"{path}.list.element", type_.value_type)]
    else:
        return [(path, type_)]
    return [leaf for child_path, child in children for leaf in _leaves(child_path, child)]
