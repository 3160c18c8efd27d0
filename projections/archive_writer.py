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
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from esper.errors import CorruptState, InvalidInput
from esper.leyline.folders import Folder
from esper.leyline.signing import KeyRing
from esper.record.accept import Fact
from projections import archive_migrations, manifest, unlisted
from projections.columns import INVALID, ROW_GROUP, encodings, shape_of
from projections.decode import TooMuch, decode
from projections.manifest import FILES, LOCK, FileEntry, Gap, Manifest, Place
from projections.records import Batch, Record, Unreadable, batches_of
from projections.verdicts import FACT_TABLES, Verdicts, archived_facts
from projections.verify import damaged

KEEP_REPLACED_S: Final = 600.0
"""How long a replaced file stays for readers that hold an older manifest: longer than any query takes."""

WRITERS: Final = 4
"""Files that are encoded and synced at once: a flush has one for every body type."""


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
        manifest.refuse_exports(folder.parent)
        self.folder = folder
        self._keys = keys
        with Folder.open(folder, make=True) as held:
            self._files = held.inside(FILES, make=True)
        self._lock = FileLock(folder / LOCK, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            self._files.close()
            raise InvalidInput(f"another archiver writes {folder}: stop it, or give this one its own folder") from None
        try:
            self.manifest: Manifest = manifest.load_or_empty(folder)
            self._stamp = manifest.stamp(folder)
            self.set_aside: int = self._set_aside()
            self._migrate(now_s)
            self._verdicts = self._new_verdicts()
        except BaseException:
            self._files.close()
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
        self._files.close()
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
        self._files.sync()
        return tables, entries

    def swap(self, old: frozenset[str], new: FileEntry, now_s: float) -> bool:
        """Put a merged file in the place of those that it was made of; False where the proposal does not fit.

        The merged file must lie in the folder already, synced. One that does not fit is deleted.
        """
        try:
            swapped = self.manifest.swapped(old, new, now_s + KEEP_REPLACED_S)
        except CorruptState:
            self._files.remove(new.name)
            return False
        self._files.sync()
        self._commit(replace(swapped, files=tuple(self._stamped(entry, new) for entry in swapped.files)))
        return True

    def put_back(self, old: FileEntry, table: pa.Table, undecided: set[str], now_s: float) -> FileEntry:
        """Put a file of `table` in the place of a damaged one that was set aside; runs `undecided` are the reader's."""
        new = self._write(old.table, table, self.manifest.generation + 1)
        self._files.sync()
        swapped = self.manifest.swapped(frozenset({old.name}), new, now_s + KEEP_REPLACED_S)
        self._commit(replace(swapped, undecided=_and(self.manifest.undecided, undecided)))
        return new

    def delete_retired(self, now_s: float) -> int:
        """Delete replaced files whose time has come; how many."""
        due = [name for name, at_s in self.manifest.retired.items() if at_s <= now_s]
        if due:
            listed = {entry.name for entry in self.manifest.files}
            for name in due:
                if name not in listed:
                    self._files.remove(name)
            kept = {name: at_s for name, at_s in self.manifest.retired.items() if at_s > now_s}
            self._commit(replace(self.manifest, retired=kept))
        return len(due)

    def _stamped(self, entry: FileEntry, new: FileEntry) -> FileEntry:
        return replace(entry, generation=self.manifest.generation + 1) if entry is new else entry

    def _commit(self, changed: Manifest) -> None:
        archive_id = changed.archive_id or secrets.token_hex(8)
        committed = replace(changed, generation=self.manifest.generation + 1, archive_id=archive_id)
        manifest.save(self.folder, committed)
        self.manifest, self._stamp = committed, manifest.stamp(self.folder)

    def keep_manifest(self) -> bool:
        """Write the manifest again where somebody put another in its place or removed it; whether that was so."""
        if self._stamp is None or manifest.stamp(self.folder) == self._stamp:
            return False
        _log.warning("%s was replaced while the archive was written: it is written again", self.folder / manifest.NAME)
        self._commit(self.manifest)
        return True

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
        self._files.write(file, content, sync=False)
        return FileEntry(
            name=file,
            table=name,
            level=0,
            rows=table.num_rows,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            shape=shape_of(name),
            generation=generation,
            offsets=unlisted.offsets(table),
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

        def archived(run_ids: Collection[str]) -> Iterator[Fact] | None:
            held = [entry for entry in self.manifest.files if entry.table in FACT_TABLES]
            return archived_facts(self.folder, held, run_ids)

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

    def _set_aside(self) -> int:
        """Put aside what no manifest lists, and fill up from it what listed files lack that have gone; how many files.

        The next generation is above those of all files, so that no name and no generation is given twice: also where
        an earlier start put them aside and did not come to write anything. Another copy of the manifest may list them.
        """
        aside = unlisted.set_aside(self.folder, self.manifest)
        highest = max((_generation(path.name) for path in unlisted.paths(self.folder)), default=0)
        if highest > self.manifest.generation:
            self.manifest = replace(self.manifest, generation=highest)
            if self.manifest.files:
                self._commit(self.manifest)  # before any of them may be deleted; a list that was lost is not made yet
        if aside:
            _log.warning("%d files that %s does not list lie in %s now", len(aside), self.folder, manifest.SET_ASIDE)
            filled = unlisted.filled_up(self.folder, self.manifest)
            if filled is not self.manifest:
                self._commit(filled)
        return len(aside)

    def take_over(self, begins: Mapping[Place, int]) -> int:
        """Archive what files set aside hold after the archive's end and the log, which begins at `begins`, lost since.

        What the log still has comes from there. Returns how many records that are.
        """
        held = unlisted.bounds(self.folder)
        gone = {place: begins.get(place, end) for place, (_, end) in held.items()}
        wanted = {
            place: (self.manifest.next_offsets.get(place, 0), begin)
            for place, begin in gone.items()
            if held[place][1] > self.manifest.next_offsets.get(place, 0) < begin
        }
        return sum(self.append(records).rows for records in unlisted.records(self.folder, wanted)) if wanted else 0

    def ends(self) -> dict[Place, int]:
        """How far the log must go: to the archive's end, and, where the manifest was lost, to that of the files."""
        if self.manifest.files or self.manifest.next_offsets:
            return dict(self.manifest.next_offsets)
        return {place: end for place, (_, end) in unlisted.bounds(self.folder).items()}

    def follows(self, cluster_id: str, partitions: int) -> None:
        """Note whose log is archived here from now on, of topics with so many partitions; kept with the next change."""
        before = self.manifest.partitions
        if before and before != partitions:
            _log.warning(
                "the log's topics have %d partitions and had %d: a run that goes on does so on another one; let runs "
                "end before partitions are added",
                partitions,
                before,
            )
        self.manifest = replace(self.manifest, cluster_id=cluster_id, partitions=partitions)

    def last_records(self) -> dict[Place, tuple[int, bytes | None]]:
        """The offset and the bytes of the last archived record of each topic partition, where a file can be read."""
        found: dict[Place, tuple[int, bytes | None]] = {}
        for entry in self.manifest.files:
            for place, (_, end) in entry.offsets.items():
                if end == self.manifest.next_offsets.get(place):
                    found.update(unlisted.record_at(self.folder / FILES / entry.name, place, end - 1))
        return found

    def note_gone(self, begins: Mapping[Place, int]) -> int:
        """Note as gaps the offsets between the archive's end and where the log begins; how many.

        Before anything is taken from that log: no record has to come for the archive to be at the log's end.
        """
        ends = self.manifest.next_offsets
        gaps = tuple(Gap(*at, ends.get(at, 0), begin) for at, begin in begins.items() if begin > ends.get(at, 0))
        if gaps:
            reached = {(gap.topic, gap.partition): gap.next for gap in gaps}
            self._commit(replace(self.manifest, next_offsets={**ends, **reached}, gaps=self.manifest.gaps + gaps))
        return sum(gap.next - gap.first for gap in gaps)

    def drop_set_aside(self) -> int:
        """Delete the files set aside of which listed files hold every record, byte for byte; how many."""
        return unlisted.drop_held(self.folder, self.manifest)


def _generation(name: str) -> int:
    """The highest generation that a file's name has in it."""
    return max(map(int, re.findall(r"-(\d{9})(?=[-.])", name)), default=0)


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


def encode(table: pa.Table) -> memoryview:
    """`table` as a Parquet file's bytes."""
    dictionary, others = encodings(table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="lz4",
        use_dictionary=dictionary,
        column_encoding=others,
        store_schema=False,
        data_page_version="1.0",
    )
    return memoryview(sink.getvalue())
