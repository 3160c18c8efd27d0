"""Whether an exported folder holds what was exported: its files, its runs' digests, and columns that say the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline.objects import ObjectStore
from projections import open_history
from projections.decode import decode
from projections.export import ARCHIVE, CONTENTS, DIGESTS, FORMAT, OBJECTS, SUMS, sums
from projections.manifest import FILES
from projections.quoting import quoted
from projections.records import batches_of
from projections.restore import stored_records

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from projections.history import History

_NOT_OF_THE_BYTES: Final = frozenset({"log_regular", "log_verdict"})
"""Columns that take a run's other facts, or its parent's; the first is of exports of earlier versions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was checked and what is wrong; `digest` stands for the whole folder, as `sha256sum SHA256SUMS` gives it."""

    folder: str
    runs: tuple[str, ...]
    events: int
    files: int
    objects: int
    digest: str
    problems: tuple[str, ...]


def verify_export(folder: Path) -> Verdict:
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
    return Verdict(
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
        contents: dict[str, Any] = json.loads((folder / CONTENTS).read_bytes())
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
    again = decode(batches_of(stored_records(history)))
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
    file = f"read_parquet([{quoted(path)}])"
    known, shape = connection.sql("FROM decoded_again").columns, connection.sql(f"FROM {file}")
    types = dict(zip(shape.columns, shape.types, strict=True))
    both = [name for name in types if name in known and name not in _NOT_OF_THE_BYTES]
    held = f"SELECT {', '.join(map(_named, both))} FROM {file}"  # noqa: S608  names of ours
    cast = ", ".join(f"{_named(name)}::{types[name]} AS {_named(name)}" for name in both)
    meant = f"SELECT {cast} FROM decoded_again SEMI JOIN {file} USING (log_topic, log_partition, log_offset)"  # noqa: S608
    ((count,),) = connection.execute(
        f"SELECT count(*) FROM (({held} EXCEPT ALL {meant}) UNION ALL ({meant} EXCEPT ALL {held}))"  # noqa: S608  as above
    ).fetchall()
    return int(count)


def _named(column: str) -> str:
    """A column's name as SQL takes it, whatever the name."""
    return f'"{column}"'
