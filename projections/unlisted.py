"""Parquet files in an archive that its manifest does not list: none is lost, none is read twice, none stays unsaid.

A killed flush or merge leaves some; so does a manifest that was lost or restored from an older copy. They are moved to
the folder `set-aside`, whole. What of them has left the log is archived again from there, what the log still has is
read from it, and a file is deleted when listed files hold every record in it, byte for byte.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import RUNS
from esper.leyline.folders import Folder
from esper.record.accept import Verdict
from projections.columns import ROW_GROUP, quoted
from projections.manifest import FILES, SET_ASIDE, UNFINISHED, FileEntry, Manifest, Place
from projections.records import StoredRecord
from projections.verify import damaged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

BATCH: Final = 20_000
MEMORY: Final = "400MB"
_PLACE: Final = ["log_topic", "log_partition", "log_offset"]
_FIELDS: Final = "log_topic, log_partition, log_offset, log_timestamp_ms, log_key, log_raw, log_headers"
Kind = tuple[str, str, list[Path]]
"""A table, a name for its columns, and files that have them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """A file that was set aside: its records, those that no listed file holds, None where it cannot be read."""

    path: Path
    records: int | None
    missing: int


def set_aside(archive: Path, manifest: Manifest) -> list[str]:
    """Move what `manifest` does not list out of the archive's files; the names. For the archive's owner.

    What a killed writer had not finished goes. Links, folders and names that are none stay where they are.
    """
    with Folder.open(archive) as held, held.inside(FILES) as files:
        files.remove_broken_off()
        held.remove_folder(UNFINISHED)
        names = unknown(files, manifest)
        if names:
            with held.inside(SET_ASIDE, make=True) as aside:
                there = aside.files()
                for name in names:
                    new = name if name not in there else f"{Path(name).stem}-{secrets.token_hex(4)}.parquet"
                    files.move(name, aside, new)
                aside.sync()
            files.sync()
            held.sync()
    return names


def unknown(files: Folder, manifest: Manifest) -> list[str]:
    """The plain files in the archive's folder of files that nothing lists."""
    listed = {entry.name for entry in manifest.files} | set(manifest.retired)
    return sorted(name for name in files.files() if name not in listed)


def among(archive: Path, manifest: Manifest) -> list[Path]:
    """The files among the archive's that nothing lists."""
    with Folder.open(archive) as held, held.inside(FILES) as files:
        return [archive / FILES / name for name in unknown(files, manifest)]


def paths(archive: Path) -> list[Path]:
    """The files that were set aside."""
    try:
        with Folder.open(archive) as held, held.inside(SET_ASIDE) as aside:
            return [archive / SET_ASIDE / name for name in sorted(aside.files())]
    except FileNotFoundError:
        return []


def bounds(archive: Path) -> dict[Place, tuple[int, int]]:
    """The first and the next offset of each topic partition in the files that were set aside and can be read."""
    found: dict[Place, tuple[int, int]] = {}
    for path in paths(archive):
        table = _read(path, _PLACE)
        for place, (first, end) in ({} if table is None else offsets(table)).items():
            low, high = found.get(place, (first, end))
            found[place] = (min(low, first), max(high, end))
    return found


def offsets(table: Any) -> dict[Place, tuple[int, int]]:
    """First and next offset of every topic partition in a table of the archive."""
    import numpy as np  # noqa: PLC0415  readers need neither, and importing them costs 0.1 s

    topics = table.column("log_topic").combine_chunks().dictionary_encode()
    partitions, offsets_ = (table.column(name).to_numpy() for name in _PLACE[1:])
    places = topics.indices.to_numpy().astype(np.int64) << 32 | partitions
    found: dict[Place, tuple[int, int]] = {}
    for place in dict.fromkeys(places[np.sort(np.unique(places, return_index=True)[1])].tolist()):
        held = offsets_[places == place]
        found[topics.dictionary[place >> 32].as_py(), place & 0xFFFFFFFF] = (int(held.min()), int(held.max()) + 1)
    return found


def records(archive: Path, wanted: Mapping[Place, tuple[int, int]]) -> Iterator[list[StoredRecord]]:
    """The records in files set aside at the offsets `[first, next)` that are wanted, each once, in the log's order."""
    with _connected(archive) as connection:
        sources = _whole(archive, connection)
        if not sources:
            return
        connection.execute("CREATE TABLE wanted (topic VARCHAR, part INTEGER, first BIGINT, next BIGINT)")
        connection.executemany("INSERT INTO wanted VALUES (?, ?, ?, ?)", [[*at, *to] for at, to in wanted.items()])
        rows = connection.execute(
            f"SELECT {_FIELDS} FROM {_scan(sources)} JOIN wanted ON topic = log_topic AND part = log_partition "  # noqa: S608
            "AND log_offset >= first AND log_offset < next "
            "QUALIFY row_number() OVER (PARTITION BY log_topic, log_partition, log_offset) = 1 "
            "ORDER BY log_topic, log_partition, log_offset"
        )
        while batch := rows.fetchmany(BATCH):
            yield [_record(row) for row in batch]


def _record(row: tuple[Any, ...]) -> StoredRecord:
    topic, partition, offset, timestamp_ms, key, value, headers = row
    pairs = tuple((header["key"], header["value"]) for header in headers)
    return StoredRecord(topic, partition, offset, timestamp_ms, key, value, pairs)


def filled_up(archive: Path, manifest: Manifest) -> Manifest:
    """The manifest with the rows, out of files set aside, that it says are archived and no listed file holds.

    An older manifest lists files that were merged since: their rows lie in merged files, which it does not list. The
    rows are written into new files, synced; a listed file that is missing or damaged leaves the list when all its rows
    are there. The caller commits.
    """
    before = any(first < manifest.next_offsets.get(place, 0) for place, (first, _) in bounds(archive).items())
    if not before:
        return manifest
    bad = {Path(damage.path).name for damage in damaged(archive, manifest.files)}
    gone = [entry for entry in manifest.files if entry.name in bad]
    with _connected(archive) as connection:
        sources = _whole(archive, connection)
        held = [archive / FILES / entry.name for entry in manifest.files if entry.name not in bad]
        connection.execute("CREATE TABLE held (topic VARCHAR, part INTEGER, place BIGINT)")
        if held:
            connection.execute(f"INSERT INTO held SELECT {', '.join(_PLACE)} FROM {_scan(held)}")  # noqa: S608  ours
        _note_wanted(connection, manifest)
        found = [
            entry
            for kind in _kinds(sources)
            if (entry := _rows_of(connection, archive, manifest.generation + 1, kind)) is not None
        ]
        left = [entry for entry in gone if not _complete(connection, archive, entry, found)]
    if not found:
        return manifest
    _log.warning(
        "%d rows that %d missing or damaged files had were found in others", sum(e.rows for e in found), len(gone)
    )
    kept = [entry for entry in manifest.files if entry.name not in bad or entry in left]
    runs = {*manifest.undecided, *_undecided(archive, found)}
    return replace(manifest, files=(*kept, *found), undecided=tuple(sorted(runs)))


def _undecided(archive: Path, entries: Sequence[FileEntry]) -> set[str]:
    """The runs of facts that were left to readers to judge: the manifest that said so is not there any more."""
    import pyarrow.parquet as pq  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s

    runs: set[str] = set()
    for entry in entries:
        file = pq.ParquetFile(archive / FILES / entry.name)
        if "log_verdict" in file.schema_arrow.names and entry.table in RUNS.bodies:
            rows = file.read(columns=["run_id", "log_verdict"]).to_pydict()
            verdicts = zip(rows["run_id"], rows["log_verdict"], strict=True)
            runs |= {run for run, verdict in verdicts if verdict == Verdict.UNDECIDED}
    return runs


def _kinds(sources: Sequence[Path]) -> list[Kind]:
    """Files by table and columns, which can be read together, with a name for the columns."""
    from projections.columns import arrow_schema, shape_of  # noqa: PLC0415  only needed here

    groups: dict[tuple[str, str], list[Path]] = {}
    for path in sources:
        table, schema = path.name.split("-", 1)[0], _schema(path)
        try:
            shape = shape_of(table) if schema.names == arrow_schema(table).names else ""
        except KeyError:
            shape = ""
        groups.setdefault((table, shape or hashlib.sha256(str(schema).encode()).hexdigest()[:12]), []).append(path)
    return [(*kind, held) for kind, held in groups.items()]


def _note_wanted(connection: Connection, manifest: Manifest) -> None:
    """Make the table of the offsets that are archived by what the manifest says: all but what the log had lost."""
    connection.execute("CREATE TABLE ends (topic VARCHAR, part INTEGER, next BIGINT)")
    connection.executemany(
        "INSERT INTO ends VALUES (?, ?, ?)", [[*at, end] for at, end in manifest.next_offsets.items()]
    )
    connection.execute("CREATE TABLE gaps (topic VARCHAR, part INTEGER, first BIGINT, next BIGINT)")
    if manifest.gaps:
        gaps = [[gap.topic, gap.partition, gap.first, gap.next] for gap in manifest.gaps]
        connection.executemany("INSERT INTO gaps VALUES (?, ?, ?, ?)", gaps)


def _rows_of(connection: Connection, archive: Path, generation: int, kind: Kind) -> FileEntry | None:
    """A new file with the rows of one kind that are archived, and that no listed file has."""
    from projections.compaction import unfinished  # noqa: PLC0415  it imports what imports this

    table, shape, sources = kind
    name = f"{table}-{generation:09d}-{generation:09d}-{secrets.token_hex(4)}.parquet"
    with unfinished(archive, name) as made:
        connection.execute(
            f"COPY (SELECT * FROM {_scan(sources)} WHERE EXISTS (FROM ends WHERE topic = log_topic AND "  # noqa: S608  ours
            "part = log_partition AND log_offset < next) AND NOT EXISTS (FROM gaps WHERE topic = log_topic AND "
            "part = log_partition AND log_offset >= first AND log_offset < next) AND NOT EXISTS (FROM held WHERE "
            "topic = log_topic AND part = log_partition AND place = log_offset) "
            "QUALIFY row_number() OVER (PARTITION BY log_topic, log_partition, log_offset) = 1 "
            f"ORDER BY log_topic, log_partition, log_offset) TO {quoted(made)} (FORMAT parquet, COMPRESSION zstd, "
            f"COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP}, PARQUET_VERSION v2)"
        )
    path = archive / FILES / name
    rows = _read(path, _PLACE)
    if rows is None or rows.num_rows == 0:
        path.unlink()
        return None
    connection.execute(f"INSERT INTO held SELECT {', '.join(_PLACE)} FROM {_scan([path])}")  # noqa: S608  ours
    content = path.read_bytes()
    return FileEntry(
        name=name,
        table=table,
        level=1,
        rows=rows.num_rows,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        shape=shape,
        generation=generation,
        offsets=offsets(rows),
    )


def _complete(connection: Connection, archive: Path, entry: FileEntry, found: Sequence[FileEntry]) -> bool:
    """Whether the rows of a file that has gone are all in the files of its table that were `found`."""
    same = [archive / FILES / each.name for each in found if each.table == entry.table]
    if not same:
        return False
    spans = " OR ".join(
        f"(log_topic = {quoted(topic)} AND log_partition = {part} AND log_offset >= {first} AND log_offset < {end})"
        for (topic, part), (first, end) in entry.offsets.items()
    )
    ((count,),) = connection.execute(f"SELECT count(*) FROM {_scan(same)} WHERE {spans}").fetchall()  # noqa: S608  ours
    return bool(count >= entry.rows)


def looked_at(archive: Path, manifest: Manifest, names: Sequence[Path]) -> list[Aside]:
    """Each of some files that are not listed, and how many of its records no listed file holds byte for byte."""
    found = []
    for path in names:
        table = _read(path, [*_PLACE, "log_raw"])
        if table is None:
            found.append(Aside(path, None, 0))
            continue
        left, spans = _comparable(table), offsets(table)
        for entry in manifest.files:
            if left.num_rows and _meet(entry.offsets, spans):
                listed = _read(archive / FILES / entry.name, [*_PLACE, "log_raw"])
                if listed is not None:
                    left = left.join(_comparable(listed), keys=left.column_names, join_type="left anti")
        found.append(Aside(path, table.num_rows, left.num_rows))
    return found


def _comparable(table: Any) -> Any:
    """The records of a table as a join compares them: one without a value is one of no bytes and is told apart."""
    import pyarrow.compute as pc  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s

    raw = table.column("log_raw")
    return table.select(_PLACE).append_column("raw", pc.fill_null(raw, b"")).append_column("none", pc.is_null(raw))


def drop_held(archive: Path, manifest: Manifest) -> int:
    """Delete the files set aside whose records listed files hold, every one of them; how many."""
    held = [
        each.path.name for each in looked_at(archive, manifest, paths(archive)) if each.records and not each.missing
    ]
    if held:
        with Folder.open(archive) as folder, folder.inside(SET_ASIDE) as aside:
            for name in held:
                aside.remove(name)
            aside.sync()
    return len(held)


def record_at(path: Path, place: Place, offset: int) -> dict[Place, tuple[int, bytes | None]]:
    """The bytes of the record at a place of the log, where a file can be read and has it."""
    import pyarrow as pa  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    wanted = [("log_topic", "=", place[0]), ("log_partition", "=", place[1]), ("log_offset", "=", offset)]
    try:
        rows = pq.read_table(path, columns=["log_raw"], filters=wanted).column("log_raw").to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    return {place: (offset, rows[0])} if rows else {}


def _meet(one: Mapping[Place, tuple[int, int]], other: Mapping[Place, tuple[int, int]]) -> bool:
    return any(place in one and one[place][0] < end and first < one[place][1] for place, (first, end) in other.items())


def _whole(archive: Path, connection: Connection) -> list[Path]:
    """The files set aside of which every value can be read; the others are named: nothing says what was in those.

    By DuckDB, which will read them: pyarrow cannot read every integer column that DuckDB wrote.
    """
    import duckdb  # noqa: PLC0415  as in _connected

    found = []
    for path in paths(archive):
        try:
            names = {row[0] for row in connection.execute(f"DESCRIBE FROM {_scan([path])}").fetchall()}
            connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM {_scan([path])}").fetchall()  # noqa: S608
        except duckdb.Error as error:
            names, why = set(), f": {str(error).splitlines()[0]}"
        else:
            why = ": it has not an archive's columns"
        if {*_FIELDS.split(", ")} <= names:
            found.append(path)
        else:
            _log.warning("%s was set aside and cannot be read%s; what the log has lost of it is lost", path, why)
    return found


def _read(path: Path, columns: Sequence[str]) -> Any:
    """Columns of a Parquet file, None where it cannot be read."""
    import pyarrow as pa  # noqa: PLC0415  readers need no Arrow, and importing it costs 0.1 s
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    try:
        return pq.ParquetFile(path).read(columns=list(columns))
    except (OSError, pa.ArrowException, KeyError):
        return None


def _schema(path: Path) -> Any:
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    return pq.read_schema(path)


def _connected(archive: Path) -> Connection:
    import duckdb  # noqa: PLC0415  nothing is set aside but after a kill or a restored copy

    connection = duckdb.connect(":memory:")
    connection.execute(f"SET threads = 1; SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"SET temp_directory = {quoted(archive / 'merging')}")
    return connection


def _scan(sources: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(map(quoted, sources))}])"
