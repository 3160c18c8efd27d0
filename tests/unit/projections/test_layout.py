"""The promise of docs/archive.md about the files: what it says is so, and plain libraries read them by it alone."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from contracts.topics import RUNS
from projections import manifest, questions

ARCHIVE = questions.folder() / "archive"
PAGE = Path(__file__).parents[3] / "docs" / "archive.md"
LOG = {
    "log_topic": "string",
    "log_partition": "int32",
    "log_offset": "int64",
    "log_timestamp_ms": "int64",
    "log_key": "binary",
    "log_headers": "list<element: struct<key: string, value: binary>>",
    "log_raw": "binary",
    "log_body": "string",
}
ENVELOPE = {
    "event_id": "binary",
    "run_id": "string",
    "producer": "string",
    "sequence": "uint64",
    "incarnation": "uint32",
    "timeline": "uint32",
    "global_step": "uint64",
    "epoch": "uint32",
    "recorded_at_ns": "uint64",
    "causation_id": "binary",
    "correlation_id": "binary",
    "schema_version": "uint32",
    "priority": "int32",
}
"""Version 1: who changes a line of these has made a version 2, and migrates what there is."""


def files(table: str) -> list[str]:
    """As the page says: those that the manifest lists, and no others."""
    listed = json.loads((ARCHIVE / "manifest.json").read_text("utf-8"))
    return [str(ARCHIVE / "files" / each["name"]) for each in listed["files"] if each["table"] == table]


def by_duckdb(table: str) -> list[tuple[object, ...]]:
    query = "SELECT run_id, log_offset, state.validation_loss, len(seeds) FROM read_parquet(?, union_by_name := true)"
    return duckdb.connect().execute(query, [files(table)]).fetchall()


def by_polars(table: str) -> list[tuple[object, ...]]:
    polars = pytest.importorskip("polars")
    read = polars.concat([polars.read_parquet(file) for file in files(table)], how="diagonal_relaxed")
    loss, seeds = polars.col("state").struct.field("validation_loss"), polars.col("seeds").list.len()
    return read.select("run_id", "log_offset", loss, seeds).rows()


def by_pandas(table: str) -> list[tuple[object, ...]]:
    pandas = pytest.importorskip("pandas")
    read = pandas.concat([pandas.read_parquet(file) for file in files(table)])
    rows = zip(read["run_id"], read["log_offset"], read["state"], read["seeds"], strict=True)
    return [(run, offset, state["validation_loss"], len(seeds)) for run, offset, state, seeds in rows]


def by_arrow(table: str) -> list[tuple[object, ...]]:
    rows = [row for file in files(table) for row in pq.read_table(file).to_pylist()]
    return [(row["run_id"], row["log_offset"], row["state"]["validation_loss"], len(row["seeds"])) for row in rows]


@pytest.mark.parametrize("read", [by_duckdb, by_polars, by_pandas])
def test_a_plain_library_reads_the_files_that_the_manifest_lists(read):
    assert sorted(read("epoch_completed")) == sorted(by_arrow("epoch_completed")) != []


def test_every_file_has_what_is_promised_and_the_page_says_it():
    listed = manifest.load(ARCHIVE)
    text = PAGE.read_text("utf-8").partition("## The layout of the files")[2].partition("\n## ")[0]

    assert listed.files
    assert f"version {json.loads((ARCHIVE / 'manifest.json').read_text('utf-8'))['format']}" in text
    for entry in listed.files:
        file = pq.ParquetFile(ARCHIVE / "files" / entry.name)
        types = {field.name: str(field.type) for field in file.schema_arrow}
        promised = LOG | (ENVELOPE if entry.table != "invalid" else {"reason": "string"})
        promised |= {"log_verdict": "uint8"} if entry.table in RUNS.bodies else {}
        assert {name: types.get(name) for name in promised} == promised, entry.name
        assert file.metadata.num_rows == entry.rows
        assert entry.name.startswith(f"{entry.table}-")
    assert [name for name in (*LOG, *ENVELOPE, "log_verdict", "reason") if f"`{name}`" not in text] == []


def test_polars_and_pandas_take_every_table():
    """Maps, structs and lists of structs included."""
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")

    for entry in manifest.load(ARCHIVE).files:
        file = ARCHIVE / "files" / entry.name
        assert len(polars.read_parquet(file)) == len(pandas.read_parquet(file)) == entry.rows
