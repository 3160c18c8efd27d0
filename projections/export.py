"""Some runs' whole history as one folder: a data folder that Esper reads as its own, and any DuckDB by `views.sql`.

The folder holds no key and nothing of other runs. `SHA256SUMS` covers every file in it but itself; `export.json` has a
digest of every run's events that does not depend on how they lie in files. It appears whole or not at all, and can be
verified: its files, its runs' digests, and columns that say the same as the bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline.folders import Folder
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore
from esper.record.accept import Verdict
from projections import manifest, open_history, schema
from projections.columns import INVALID, ROW_GROUP, pattern, quoted
from projections.decode import decode
from projections.lineage import stored_records
from projections.manifest import EXPORTED, FILES, MIGRATIONS, FileEntry, Manifest
from projections.records import batches_of
from projections.verdicts import FACT_TABLES, VERDICTS_HERE, columns_with_verdict, with_verdicts
from projections.verify import CACHE

if TYPE_CHECKING:
    from projections.history import History

FORMAT: Final = 1


ARCHIVE, OBJECTS, VIEWS, CONTENTS, SUMS = "archive", "objects", "views.sql", EXPORTED, "SHA256SUMS"
NETWORK: Final = "network"

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
SELECT run_id FROM runs WHERE control_of IN (SELECT run_id FROM line) OR static_of IN (SELECT run_id FROM line)
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


def export(
    history: History,
    run_ids: Sequence[str],
    to: Path,
    objects: ObjectStore | None = None,
    network: Mapping[str, bytes] | None = None,
) -> Exported:
    """Write the events of `run_ids` to the new folder `to`, with the objects that they name where a store is given.

    The files of `network` come along in a folder of that name.

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
        with history.reopened(also=made / ARCHIVE / FILES) as writing:
            _write_archive(writing, run_ids, made / ARCHIVE)
        found, missing = _copy_objects(history, run_ids, objects, made / OBJECTS) if objects is not None else (0, 0)
        events = _describe(made, found)
        for name, content in (network or {}).items():
            (made / NETWORK).mkdir(exist_ok=True)
            (made / NETWORK / name).write_bytes(content)
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
    with Folder.open(archive / FILES) as folder:
        folder.sync()
    undecided = tuple(run_id for run_id in history.undecided() if run_id in run_ids)
    held = tuple(entry for entry in written if entry is not None)
    manifest.save(archive, Manifest(generation=1, files=held, migrations=MIGRATIONS, undecided=undecided))


def _write_table(
    history: History, kind: tuple[str, str], held: Sequence[FileEntry], run_ids: Sequence[str], folder: Path
) -> FileEntry | None:
    """The runs' rows of some files of one kind (body type and shape) as one file; None where there are none."""
    table, shape = kind
    listed = ", ".join(quoted(pattern(history.archive / FILES / entry.name)) for entry in held)
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


def _copy_objects(history: History, run_ids: Sequence[str], store: ObjectStore, to: Path) -> tuple[int, int]:
    """Copy what the runs' events name, and what those objects name in turn; how many, and how many have gone."""
    copies = ObjectStore(to)
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
        script = history.script().replace(quoted(pattern(made / ARCHIVE / FILES))[:-1], f"'{ARCHIVE}/{FILES}")
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


if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from projections.history import History

_NOT_OF_THE_BYTES: Final = frozenset({"log_regular", "log_verdict"})
"""Columns that take a run's other facts, or its parent's; the first is of exports of earlier versions."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked and what is wrong; `digest` stands for the whole folder, as `sha256sum SHA256SUMS` gives it."""

    folder: str
    runs: tuple[str, ...]
    events: int
    files: int
    objects: int
    digest: str
    problems: tuple[str, ...]


def verify_export(folder: Path) -> Verified:
    """Check everything in an export; raises InvalidInput where `folder` is none."""
    listed, contents = _listed(folder), _contents(folder)
    problems = _changed(folder, listed)
    objects = [path for path in listed if path.startswith(f"{OBJECTS}/")]
    problems += _bad_objects(folder, objects)
    runs: dict[str, Any] = {run["run_id"]: run for run in contents["runs"]}
    try:
        with open_history(folder / ARCHIVE) as history:
            problems += [str(damage) for damage in history.damage if not problems]
            problems += _wrong_runs(history, runs)
            problems += _wrong_columns(history)
    except (CorruptState, OSError) as error:
        problems.append(str(error))
    return Verified(
        folder=str(folder),
        runs=tuple(runs),
        events=sum(run["events"] for run in runs.values()),
        files=len(listed),
        objects=len(objects),
        digest=hashlib.sha256((folder / SUMS).read_bytes()).hexdigest(),
        problems=tuple(problems),
    )


def _listed(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder {folder}; `esper export RUN` makes one to verify")
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
        return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder} is no export: its {SUMS} cannot be read ({error})") from None


def _contents(folder: Path) -> dict[str, Any]:
    try:
        contents: dict[str, Any] = parsed((folder / CONTENTS).read_bytes())
        known = contents["format"] == FORMAT and all({"run_id", "events", "digest"} <= set(r) for r in contents["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder} is no export: its {CONTENTS} cannot be read ({error})") from None
    if not known:
        raise InvalidInput(f"{folder} is an export of another format; this Esper reads {FORMAT}")
    return contents


def _changed(folder: Path, listed: dict[str, str]) -> list[str]:
    found = sums(folder)
    said = [f"{path} is missing" for path in listed if path not in found]
    said += [f"{path} was changed" for path, digest in listed.items() if found.get(path, digest) != digest]
    return said + [f"{path} was added" for path in found if path not in listed]


def _bad_objects(folder: Path, paths: list[str]) -> list[str]:
    """Objects are checked by their own names too: someone may have made the list of checksums anew."""
    store, problems = ObjectStore(folder / OBJECTS), []
    for path in paths:
        reference = "sha256:" + path.removeprefix(f"{OBJECTS}/").replace("/", "").removesuffix(".zst")
        try:
            store.get(reference)
        except EsperError as error:
            problems.append(str(error))
    return problems


def _wrong_runs(history: History, told: dict[str, Any]) -> list[str]:
    found = {row[0]: row for row in history.execute(DIGESTS).fetchall()}
    problems = [f"run {run_id} was added" for run_id in found if run_id not in told]
    for run_id, run in told.items():
        row = found.get(run_id)
        if row is None:
            problems.append(f"run {run_id} is missing")
        elif row[1] != run["events"] or row[-1] != run["digest"]:
            problems.append(f"run {run_id} has other events: {row[1]} of {run['events']}, digest {row[-1][:12]}")
    return problems


def _wrong_columns(history: History) -> list[str]:
    """Files whose columns are not what their own `log_raw` says; what this Esper does not know is left alone."""
    again = decode(batches_of(stored_records(history)), most=sys.maxsize)
    problems, left_out = [], {damage.name for damage in history.damage}
    for entry in history.manifest.files:
        if entry.table in again and entry.name not in left_out:
            history.connection.register("decoded_again", again[entry.table])
            wrong = _differences(history.connection, history.archive / FILES / entry.name)
            history.connection.unregister("decoded_again")
            if wrong:
                problems.append(f"{entry.name} has rows that are not what their own bytes say ({wrong} differences)")
    return problems


def _differences(connection: Connection, path: Path) -> int:
    """How many rows of a file differ from those of `decoded_again`, in what both have (older files have fewer)."""
    file = f"read_parquet([{quoted(pattern(path))}])"
    known, shape = connection.sql("FROM decoded_again").columns, connection.sql(f"FROM {file}")
    types = dict(zip(shape.columns, shape.types, strict=True))
    both = [name for name in types if name in known and name not in _NOT_OF_THE_BYTES]
    held = f"SELECT {', '.join(map(_named, both))} FROM {file}"  # noqa: S608  names of ours
    cast = ", ".join(f"{_named(name)}::{types[name]} AS {_named(name)}" for name in both)
    meant = f"SELECT {cast} FROM decoded_again SEMI JOIN {file} USING (log_topic, log_partition, log_offset)"  # noqa: S608
    lacking = f"SELECT count(*) FROM ({held} EXCEPT ALL {meant})"  # noqa: S608  as above
    counts = f"SELECT (FROM ({lacking})), (SELECT count(*) FROM ({meant})), (SELECT count(*) FROM {file})"  # noqa: S608
    ((wrong, there, here),) = connection.execute(counts).fetchall()
    return int(wrong + wrong + there - here)  # those that only the file has, and those that it lacks


def _named(column: str) -> str:
    """A column's name as SQL takes it, whatever the name."""
    return f'"{column}"'
