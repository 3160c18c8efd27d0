"""Merging many small files into few: planned by the archive's owner, done in a process of its own.

`python -m projections.compaction ARCHIVE` reads one job per line on stdin, writes the merged file beside the others and
answers with one line: a proposal, which only the owner of the manifest can put into effect. So a merge never holds up
the archiver, and killed at any point it leaves at worst a file that nothing lists.

A type is merged whenever it has `MERGE_AT` files of one level; the merged one is of the next level. So a row is written
about once per level, and a type never has more than `MERGE_AT` files a level.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.leyline.folders import Folder
from projections.columns import INVALID, ROW_GROUP, pattern, quoted
from projections.manifest import FILES, UNFINISHED, FileEntry, Manifest, Place, entry_from_json, entry_to_json

if TYPE_CHECKING:
    from projections.archive_writer import Archive

MERGE_AT: Final = 20
"""Files of one type and level: a reader pays about 0.1 ms a file, a merge rewrites its rows."""
FULL_ROWS: Final = 500_000
"""A file of this size is not merged again, so that a merge stays within seconds."""
MEMORY: Final = "400MB"
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Job:
    """Files of one table and shape that become one of `level`."""

    table: str
    level: int
    inputs: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What came of a job: the merged file that may replace `inputs`, or the inputs that are damaged."""

    inputs: frozenset[str]
    merged: FileEntry | None
    damaged: tuple[str, ...]


def plan(manifest: Manifest, leave: Collection[str] = (), *, merge_at: int = MERGE_AT) -> list[Job]:
    """The merges that are due, at most one per table; files in `leave` (damaged ones) stay as they are."""
    groups: dict[tuple[str, int, str], list[FileEntry]] = {}
    for entry in manifest.files:
        if entry.name not in leave and entry.rows < FULL_ROWS:
            groups.setdefault((entry.table, entry.level, entry.shape), []).append(entry)
    jobs: dict[str, Job] = {}
    for (table, level, _), entries in groups.items():
        if len(entries) >= merge_at and table not in jobs:
            jobs[table] = Job(table, level + 1, tuple(_oldest(entries[: 2 * MERGE_AT])))
    return list(jobs.values())


def _oldest(entries: Iterable[FileEntry]) -> list[FileEntry]:
    """The first of `entries` that together are not much over the full size, two at least."""
    chosen: list[FileEntry] = []
    for entry in entries:
        if len(chosen) >= 2 and sum(each.rows for each in chosen) + entry.rows > 2 * FULL_ROWS:
            break
        chosen.append(entry)
    return chosen


def merge(archive: Path, job: Job) -> Proposal:
    """Write the merged file, synced, and return it as a proposal; the rows are ordered by run, then as on the log."""
    folder = archive / FILES
    names = frozenset(entry.name for entry in job.inputs)
    damaged = tuple(entry.name for entry in job.inputs if _digest(folder / entry.name) != entry.sha256)
    if damaged:
        return Proposal(names, None, damaged)
    first, last = job.inputs[0].generation, job.inputs[-1].generation
    name = f"{job.table}-{first:09d}-{last:09d}-{secrets.token_hex(4)}.parquet"
    with unfinished(archive, name) as made:
        _write(made, [folder / entry.name for entry in job.inputs], job.table, archive / "merging")
    path = folder / name
    merged = FileEntry(
        name=path.name,
        table=job.table,
        level=job.level,
        rows=sum(entry.rows for entry in job.inputs),
        size=path.stat().st_size,
        sha256=_digest(path) or "",
        shape=job.inputs[0].shape,
        generation=last,
        offsets=_union(job.inputs),
    )
    return Proposal(names, merged, ())


def merge_all(
    owned: Archive, merge_at: int, now_s: Callable[[], float], progress: Callable[[int], None] = lambda _bytes: None
) -> set[str]:
    """Every merge of at least `merge_at` files that can be made, here and now; the names of files that are damaged.

    `progress` is told the bytes of the files that were merged.
    """
    damaged: set[str] = set()
    while jobs := plan(owned.manifest, damaged, merge_at=merge_at):
        for job in jobs:
            proposal = merge(owned.folder, job)
            damaged.update(proposal.damaged)
            if proposal.merged is not None:
                owned.swap(proposal.inputs, proposal.merged, now_s())
            progress(sum(entry.size for entry in job.inputs))
    return damaged


def _write(path: Path, inputs: list[Path], table: str, spill: Path) -> None:
    import duckdb  # noqa: PLC0415  the owner plans and needs no DuckDB

    order = "log_topic, log_partition, log_offset" if table == INVALID else "run_id, log_partition, log_offset"
    sources = ", ".join(quoted(pattern(source)) for source in inputs)
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET threads = 1; SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # it may be drawn into stdout, which is for proposals
        connection.execute(f"SET temp_directory = {quoted(spill)}")
        connection.execute(
            f"COPY (SELECT * FROM read_parquet([{sources}]) ORDER BY {order}) TO {quoted(path)} "  # noqa: S608  ours
            f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP}, PARQUET_VERSION v2)"
        )


@contextlib.contextmanager
def unfinished(archive: Path, name: str) -> Iterator[Path]:
    """Where a file may be written that is then put among the archive's, synced and whole; it goes where that fails."""
    with Folder.open(archive) as held, held.inside(UNFINISHED, make=True) as making, held.inside(FILES) as files:
        made = archive / UNFINISHED / name
        try:
            yield made
            descriptor = os.open(made, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            making.remove(name)
            raise
        making.move(name, files, name)
        files.sync()


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _union(entries: Iterable[FileEntry]) -> dict[Place, tuple[int, int]]:
    bounds: dict[Place, tuple[int, int]] = {}
    for entry in entries:
        for place, (first, end) in entry.offsets.items():
            low, high = bounds.get(place, (first, end))
            bounds[place] = (min(low, first), max(high, end))
    return bounds


def job_to_line(job: Job) -> str:
    """A job as one line of JSON."""
    entries = [entry_to_json(entry) for entry in job.inputs]
    return json.dumps({"table": job.table, "level": job.level, "inputs": entries}) + "\n"


def job_from_line(line: str) -> Job:
    """The way back."""
    value: dict[str, Any] = json.loads(line)
    return Job(value["table"], value["level"], tuple(entry_from_json(entry) for entry in value["inputs"]))


def proposal_to_line(proposal: Proposal) -> str:
    """A proposal as one line of JSON."""
    merged = None if proposal.merged is None else entry_to_json(proposal.merged)
    return json.dumps({**asdict(proposal), "inputs": sorted(proposal.inputs), "merged": merged}) + "\n"


def proposal_from_line(line: str) -> Proposal:
    """The way back."""
    value: dict[str, Any] = json.loads(line)
    merged = None if value["merged"] is None else entry_from_json(value["merged"])
    return Proposal(frozenset(value["inputs"]), merged, tuple(value["damaged"]))


def _main(archive: Path) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # never outlive the owner of the manifest
    os.nice(10)
    for line in sys.stdin:
        sys.stdout.write(proposal_to_line(merge(archive, job_from_line(line))))
        sys.stdout.flush()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
