"""Some runs' whole history as one folder: a data folder that Esper reads as its own, and any DuckDB by `views.sql`.

The folder holds no key and nothing of other runs. `SHA256SUMS` covers every file in it but itself; `export.json` has a
digest of every run's events that does not depend on how they lie in files. It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.record.accept import Verdict
from projections import files, manifest, open_history, schema
from projections.columns import INVALID
from projections.decided import VERDICTS as VERDICTS_HERE
from projections.manifest import FILES, FileEntry, Manifest
from projections.parquet import ROW_GROUP
from projections.quoting import quoted
from projections.verdicts import FACT_TABLES, MIGRATIONS, columns_with_verdict, with_verdicts
from projections.verify import CACHE

if TYPE_CHECKING:
    from projections.history import History

FORMAT: Final = 1
ARCHIVE, OBJECTS, VIEWS, CONTENTS, SUMS = "archive", "objects", "views.sql", "export.json", "SHA256SUMS"
DIGESTS: Final = """
SELECT run_id, count(*) AS events, count(*) FILTER (sequence > 0) AS facts, max(sequence) AS last_sequence,
    sha256(string_agg(sha256(log_raw), '' ORDER BY log_topic, log_partition, log_offset)) AS digest
FROM log.every GROUP BY run_id ORDER BY run_id
"""
"""What a run's events are, whichever files they lie in: SHA-256 over their SHA-256s in the order of the log."""
_NAMED: Final = re.compile(rb"(?:sha256|file):([0-9a-f]{64})")
_FAMILY: Final = """
WITH RECURSIVE line AS (
    SELECT run_id, parent_run_id FROM runs WHERE run_id = $run
    UNION
    SELECT parent.run_id, parent.parent_run_id FROM runs AS parent JOIN line ON parent.run_id = line.parent_run_id
)
SELECT run_id FROM line
UNION
SELECT run_id FROM runs WHERE control_of IN (SELECT run_id FROM line)
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds; `digest` is that of its `SHA256SUMS`, and so of everything in it.

    `missing` are objects that events name and the store no longer has, as of checkpoints that were pruned.
    """

    folder: str
    runs: tuple[str, ...]
    events: int
    objects: int
    missing: int
    bytes: int
    digest: str


def family(history: History, run_id: str) -> tuple[str, ...]:
    """A run and what is needed to understand it: the runs that it was forked from, and the control runs of them all."""
    found = [name for (name,) in history.execute(_FAMILY, {"run": run_id}).fetchall()]
    return (run_id, *sorted(set(found) - {run_id}))


def export(history: History, run_ids: Sequence[str], to: Path, objects: Path | None = None) -> Exported:
    """Write the events of `run_ids` to the new folder `to`, with the objects that they name where a store is given.

    Raises InvalidInput where `to` exists or cannot be made, CorruptState where a part of the history is damaged: it
    would be missing.
    """
    if to.exists():
        raise InvalidInput(f"{to} exists, and an export overwrites nothing; name another folder with --to")
    if history.damage:
        raise CorruptState(f"the history is damaged, so an export would lack rows: {history.damage[0]}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}-"))
    except OSError as error:
        raise InvalidInput(f"{to} cannot be made: {error.strerror or error}; name another folder with --to") from None
    try:
        made.chmod(0o755)
        _write_archive(history, run_ids, made / ARCHIVE)
        found, missing = _copy_objects(history, run_ids, objects, made / OBJECTS) if objects else (0, 0)
        events = _describe(made, found)
        digest = _write_sums(made)
        made.rename(to)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise InvalidInput(
            f"{to} cannot be written: {error.strerror or error}; name another folder with --to"
        ) from None
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    return Exported(str(to), tuple(run_ids), events, found, missing, size, digest)


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder by its path inside, but of `SHA256SUMS` and of what readers remember."""
    left_out = {folder / SUMS, folder / ARCHIVE / CACHE}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in left_out)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def _write_archive(history: History, run_ids: Sequence[str], archive: Path) -> None:
    """One file per body type and shape of its columns, which stay as they were archived."""
    (archive / FILES).mkdir(parents=True)
    shapes: dict[tuple[str, str], list[FileEntry]] = {}
    for entry in history.manifest.files:
        shapes.setdefault((entry.table, entry.shape), []).append(entry)
    written = [_write_table(history, kind, held, run_ids, archive / FILES) for kind, held in shapes.items()]
    files.sync_folder(archive / FILES)
    undecided = tuple(run_id for run_id in history.undecided() if run_id in run_ids)
    held = tuple(entry for entry in written if entry is not None)
    manifest.save(archive, Manifest(generation=1, files=held, migrations=MIGRATIONS, undecided=undecided))


def _write_table(
    history: History, kind: tuple[str, str], held: Sequence[FileEntry], run_ids: Sequence[str], folder: Path
) -> FileEntry | None:
    """The runs' rows of some files of one kind (body type and shape) as one file; None where there are none."""
    table, shape = kind
    listed = ", ".join(quoted(history.archive / FILES / entry.name) for entry in held)
    source = f"read_parquet([{listed}])"
    if history.judged_here and table in FACT_TABLES:
        history.undecided()
        columns, shape = columns_with_verdict(history.connection, table, shape, source)
        source = f"({with_verdicts(source, VERDICTS_HERE, columns, str(int(Verdict.ACCEPTED)))})"
    mine, order = "list_contains($runs, run_id)", "run_id, log_topic, log_partition, log_offset"
    if table == INVALID:
        mine, order = "list_contains($runs, decode(log_key))", "log_topic, log_partition, log_offset"
    rows = f"FROM {source} WHERE {mine}"
    places = history.execute(
        f"SELECT log_topic, log_partition, min(log_offset), max(log_offset) + 1, count(*) {rows} GROUP BY ALL "
        "ORDER BY ALL",
        {"runs": list(run_ids)},
    ).fetchall()
    if not places:
        return None
    path = folder / f"{table}-{shape}-000000001.parquet"
    history.execute(
        f"COPY (SELECT * {rows} ORDER BY {order}) TO {quoted(path)} "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 12, ROW_GROUP_SIZE {ROW_GROUP}, PARQUET_VERSION v2)",
        {"runs": list(run_ids)},
    )
    return FileEntry(
        name=path.name,
        table=table,
        level=1,
        rows=sum(count for *_, count in places),
        size=path.stat().st_size,
        sha256=_sha256(path),
        shape=shape,
        generation=1,
        offsets={(topic, partition): (begin, end) for topic, partition, begin, end, _ in places},
    )


def _copy_objects(history: History, run_ids: Sequence[str], source: Path, to: Path) -> tuple[int, int]:
    """Copy what the runs' events name, and what those objects name in turn; how many, and how many have gone."""
    store, copies = ObjectStore(source), ObjectStore(to)
    cursor = history.cursor("SELECT log_raw FROM log.every WHERE list_contains($runs, run_id)", {"runs": list(run_ids)})
    wanted = {name for (raw,) in cursor.fetchall() for name in _NAMED.findall(raw)}
    seen: set[bytes] = set()
    copied = 0
    while wanted - seen:
        name = min(wanted - seen)
        seen.add(name)
        reference = f"sha256:{name.decode()}"
        if reference in store:
            content = store.get(reference)
            copies.put(content, compress=True)
            copied += 1
            wanted |= set(_NAMED.findall(content)) if content[:1] == b"{" else set()
    return copied, len(seen) - copied


def _describe(made: Path, objects: int) -> int:
    """Write what is in the folder and how to ask it; returns how many events there are."""
    with open_history(made / ARCHIVE) as history:
        script = history.script().replace(quoted(made / ARCHIVE / FILES)[:-1], f"'{ARCHIVE}/{FILES}")
        texts = ";\n".join(schema.comments(history.connection))
        found = history.execute(DIGESTS)
        runs = [dict(zip([column[0] for column in found.description], row, strict=True)) for row in found.fetchall()]
        tables = {entry.table: history.manifest.rows(entry.table) for entry in history.manifest.files}
    (made / ARCHIVE / CACHE).unlink(missing_ok=True)
    (made / VIEWS).write_text(f"{_HEAD}{script}\n{texts};\n", "utf-8")
    contents = {"format": FORMAT, "runs": runs, "tables": tables, "objects": objects}
    (made / CONTENTS).write_text(json.dumps(contents, indent=2) + "\n", "utf-8")
    told = resources.files("projections").joinpath("sql", "export", "README.md").read_text("utf-8")
    (made / "README.md").write_text(told.replace("{digests}", DIGESTS.strip()), "utf-8")
    return sum(run["events"] for run in runs)


_HEAD: Final = """-- The views of this export, for any DuckDB that is started in this folder: duckdb -init views.sql
-- Elsewhere, say where it is first: SET file_search_path = 'path/to/this/folder';

"""


def _write_sums(made: Path) -> str:
    """Write `SHA256SUMS` in the form of sha256sum, and return its own SHA-256."""
    text = "".join(f"{digest}  {path}\n" for path, digest in sums(made).items())
    (made / SUMS).write_text(text, "utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
