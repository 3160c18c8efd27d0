"""Migrations of archives that exist: by name, in one commit each, recorded in the manifest.

`0001_verdicts` gives every archived fact its verdict (`log_verdict`), which archives of earlier versions lack. An
archive's owner does it on opening; a reader that comes before, or may not write, judges on opening and keeps nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.record.accept import SPECIAL, Verdict
from projections import files
from projections.columns import duckdb_columns, shape_of
from projections.manifest import FILES, FileEntry, Manifest
from projections.parquet import ROW_GROUP
from projections.quoting import quoted
from projections.verdicts import FACT_TABLES, VERDICT_COLUMNS, Placed, judged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

VERDICTS: Final = "0001_verdicts"
MIGRATIONS: Final = (VERDICTS,)
_BATCH: Final = 10_000
_MEMORY: Final = "400MB"
_log = logging.getLogger(__name__)


def migrate(folder: Path, manifest: Manifest, delete_after_s: float) -> Manifest:
    """The manifest after every migration that is missing; its new files are written and synced, the old ones retired.

    The caller commits. Killed before that, the old manifest holds, and the new files are orphans.
    """
    if VERDICTS in manifest.migrations:
        return manifest
    if not any(entry.table in FACT_TABLES for entry in manifest.files):
        return replace(manifest, migrations=MIGRATIONS)
    return _give_verdicts(folder, manifest, delete_after_s)


def _give_verdicts(folder: Path, manifest: Manifest, delete_after_s: float) -> Manifest:
    import duckdb  # noqa: PLC0415  an archive that is migrated needs none

    held = [entry for entry in manifest.files if entry.table in FACT_TABLES]
    rows = sum(entry.rows for entry in held)
    _log.warning("%s is of an earlier Esper: its %d facts get their verdicts, once", folder, rows)
    undecided: set[str] = set()
    unstarted: set[str] = set()
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET threads = 1; SET memory_limit = '{_MEMORY}'; SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"SET temp_directory = {quoted(folder / 'merging')}")
        sources = [(entry.table, f"read_parquet({quoted(folder / FILES / entry.name)})") for entry in held]
        for run_id, _, _, verdict in keep_verdicts(connection, "verdicts", judged(fact_rows(connection, sources))):
            undecided |= {run_id} if verdict is Verdict.UNDECIDED else set()
            unstarted |= {run_id} if verdict is Verdict.NOT_STARTED else set()
        written = {entry.name: _rewritten(connection, folder, entry, manifest.generation + 1) for entry in held}
    files.sync_folder(folder / FILES)
    return replace(
        manifest,
        files=tuple(written.get(entry.name, entry) for entry in manifest.files),
        retired={**manifest.retired, **dict.fromkeys(written, delete_after_s)},
        migrations=MIGRATIONS,
        undecided=tuple(sorted(undecided)),
        unstarted=tuple(sorted(unstarted)),
    )


def fact_rows(connection: Connection, sources: Iterable[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    """The facts in `sources` (body's name and SQL of the rows), as `verdicts.judged` takes them."""
    columns = "run_id, log_partition, log_offset, log_body, event_id, incarnation, sequence"
    parts = [
        f"SELECT {columns}, {'log_raw' if table in SPECIAL else 'NULL::BLOB'} AS log_raw FROM {source}"  # noqa: S608  ours
        for table, source in sources
    ]
    if not parts:
        return
    cursor = connection.cursor()
    cursor.execute(f"{' UNION ALL '.join(parts)} ORDER BY run_id, log_partition, log_offset")
    while rows := cursor.fetchmany(_BATCH):
        yield from rows


def keep_verdicts(connection: Connection, table: str, verdicts: Iterable[Placed]) -> Iterator[Placed]:
    """Make the table of all `verdicts` but `ACCEPTED`, which most are; gives those that are kept."""
    connection.execute(f"CREATE OR REPLACE TABLE {table} {VERDICT_COLUMNS}")
    batch: list[Placed] = []
    for placed in verdicts:
        if placed[3] is not Verdict.ACCEPTED:
            batch.append(placed)
            yield placed
        if len(batch) == _BATCH:
            insert_verdicts(connection, table, batch)
            batch = []
    insert_verdicts(connection, table, batch)


def insert_verdicts(connection: Connection, table: str, batch: list[Placed]) -> None:
    """Put verdicts into their table."""
    if batch:
        connection.execute(
            f"INSERT INTO {table} SELECT unnest($1::VARCHAR[]), unnest($2::INTEGER[]), unnest($3::BIGINT[]), "
            "unnest($4::UTINYINT[])",
            [list(column) for column in zip(*((*each[:3], int(each[3])) for each in batch), strict=True)],
        )


def with_verdicts(rows: str, verdicts: str, columns: Iterable[str], otherwise: str) -> str:
    """SQL of `rows` with `columns`, `log_verdict` among them, out of the table `verdicts`."""
    named = ", ".join(
        f"coalesce(judged.verdict, {otherwise})::UTINYINT AS log_verdict" if name == "log_verdict" else f'fact."{name}"'
        for name in columns
    )
    return (
        f"SELECT {named} FROM {rows} AS fact LEFT JOIN {verdicts} AS judged "  # noqa: S608  names of ours
        "ON judged.log_partition = fact.log_partition AND judged.log_offset = fact.log_offset"
    )


def _rewritten(connection: Connection, folder: Path, entry: FileEntry, generation: int) -> FileEntry:
    """The file with the column, beside the old one."""
    source = f"read_parquet({quoted(folder / FILES / entry.name)})"
    columns, shape = _columns(connection, entry, source)
    path = folder / FILES / f"{entry.name.removesuffix('.parquet')}-verdicts.parquet"
    connection.execute(
        f"COPY ({with_verdicts(source, 'verdicts', columns, str(int(Verdict.ACCEPTED)))} "
        f"ORDER BY fact.run_id, fact.log_partition, fact.log_offset) TO {quoted(path)} "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP}, PARQUET_VERSION v2)"
    )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        digest = hashlib.file_digest(os.fdopen(descriptor, "rb", closefd=False), "sha256").hexdigest()
    finally:
        os.close(descriptor)
    return replace(entry, name=path.name, size=path.stat().st_size, sha256=digest, shape=shape, generation=generation)


def _columns(connection: Connection, entry: FileEntry, source: str) -> tuple[list[str], str]:
    """The file's columns with the verdict among them, and their shape: today's where they are today's."""
    types: Mapping[str, str] = {row[0]: row[1] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
    today = list(duckdb_columns(entry.table))
    held = [name for name in types if name not in {"log_regular", "log_verdict"}]
    if set(held) == set(today) - {"log_verdict"}:
        return today, shape_of(entry.table)
    place = held.index("log_body") + 1
    shape = hashlib.sha256(f"{entry.shape} {VERDICTS}".encode()).hexdigest()[:12]
    return [*held[:place], "log_verdict", *held[place:]], shape
