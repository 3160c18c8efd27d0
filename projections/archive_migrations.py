"""Migrations of archives that exist: by name, in one commit each, recorded in the manifest.

`0001_verdicts` gives every archived fact its verdict (`log_verdict`), which archives of earlier versions lack. An
archive's owner does it on opening; a reader that comes before, or may not write, judges on opening and keeps nothing.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.record.accept import Verdict
from projections.columns import ROW_GROUP, pattern, quoted
from projections.compaction import unfinished
from projections.manifest import FILES, MIGRATIONS, VERDICTS, FileEntry, Manifest
from projections.verdicts import (
    FACT_TABLES,
    columns_with_verdict,
    fact_rows,
    judged,
    keep_verdicts,
    with_verdicts,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

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
        sources = [(entry.table, f"read_parquet({quoted(pattern(folder / FILES / entry.name))})") for entry in held]
        for run_id, _, _, verdict in keep_verdicts(connection, "verdicts", judged(fact_rows(connection, sources))):
            undecided |= {run_id} if verdict is Verdict.UNDECIDED else set()
            unstarted |= {run_id} if verdict is Verdict.NOT_STARTED else set()
        written = {entry.name: _rewritten(connection, folder, entry, manifest.generation + 1) for entry in held}
    return replace(
        manifest,
        files=tuple(written.get(entry.name, entry) for entry in manifest.files),
        retired={**manifest.retired, **dict.fromkeys(written, delete_after_s)},
        migrations=MIGRATIONS,
        undecided=tuple(sorted(undecided)),
        unstarted=tuple(sorted(unstarted)),
    )


def _rewritten(connection: Connection, folder: Path, entry: FileEntry, generation: int) -> FileEntry:
    """The file with the column, beside the old one."""
    source = f"read_parquet({quoted(pattern(folder / FILES / entry.name))})"
    columns, shape = columns_with_verdict(connection, entry.table, entry.shape, source)
    path = folder / FILES / f"{entry.name.removesuffix('.parquet')}-verdicts.parquet"
    with unfinished(folder, path.name) as made:
        connection.execute(
            f"COPY ({with_verdicts(source, 'verdicts', columns, str(int(Verdict.ACCEPTED)))} "
            f"ORDER BY fact.run_id, fact.log_partition, fact.log_offset) TO {quoted(made)} "
            f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP}, PARQUET_VERSION v2)"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(entry, name=path.name, size=path.stat().st_size, sha256=sha256, shape=shape, generation=generation)
