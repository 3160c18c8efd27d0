"""A person's SQL reads the archive and nothing else, and writes nowhere: by its form and by DuckDB's settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from esper.errors import InvalidInput
from projections import open_history, open_sample, questions
from projections.ad_hoc import blocks_of, check_reads, confine
from projections.columns import pattern
from projections.history import History
from projections.manifest import FILES

READING = [
    "from runs",
    "table runs",
    "values (1)",
    "describe runs",
    "show tables",
    "summarize select epoch from epochs",
    "with x as (from epochs) select count(*) from x",
    "with recursive n as (select 1 as i union all select i + 1 from n where i < 3) from n",
    "select * from fold_state_at(120)",
    "from range(3) union all values (7)",
    "select run_id, unnest([1, 2]) from runs",
    "pivot epochs on run_id using count(*)",
    "with p as (pivot epochs on run_id using count(*)) from p",
    "unpivot (select 1 as a, 2 as b) on a, b",
    "explain from runs",
    "-- first\nexplain analyze from runs",
    "explain (format json) from runs",
    "explain (from runs)",
    "explain pivot epochs on run_id using count(*)",
    "select 'copy', \"comment\" from (select 1 as comment)",
    "from pragma_table_info('runs')",
    "from runs; -- and no more",
]
WRITING = [
    "copy (select 7) to '{file}'",
    "copy runs to '{new}' (format parquet)",
    "explain analyze copy (select 7) to '{file}'",
    "explain (analyze, format json) copy (select 7) to '{file}'",
    "with x as (copy (select 7) to '{file}') from x",
    "explain analyze with x as (copy (select 7) to '{file}') from x",
    "with x as (insert into cuts from cuts returning run_id) from x",
    "with x as (copy (select 7) to '{new}') pivot epochs on run_id using count(*)",
    "pivot (from \"json_execute_serialized_sql\"(json_serialize_sql('from runs'))) on run_id using count(*)",
    "from json_execute_serialized_sql(json_serialize_sql('with x as (copy (select 7) to ''{new}'') from x'))",
    "from query('from runs')",
    "export database '{folder}/all'",
    "import database '{folder}/all'",
    "pragma import_database('{folder}/all')",
    "attach '{folder}/more.duckdb'",
    "call enable_logging(storage='file', storage_path='{folder}')",
    "from enable_logging(storage='file')",
    "from copy_database('a', 'b')",
    "set allowed_directories = ['/']",
    "reset lock_configuration",
    "load httpfs",
    "install httpfs",
    "create table mine as select 1",
    "drop view runs",
    "delete from cuts",
    "use main",
    "checkpoint",
    "begin",
    "prepare p as from runs",
    "from runs; from runs",
    "",
]
ELSEWHERE = [
    "from read_text('{key}')",
    "from '{key}'",
    "from read_csv('{key}')",
    "from read_blob('{folder}/../../../signing-key')",
    "from glob('{key}*')",
    "from read_text('/etc/passwd')",
    "from read_parquet('http://127.0.0.1:1/x.parquet')",
    "from read_json('{key}')",
    "select * from sniff_csv('{key}')",
    "from parquet_schema('{key}')",
    "from query_table('{key}')",
    "from read_duckdb('{key}')",
    "from which_secret('x', 's3')",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the small history, and a key beside its data folder."""
    archive = tmp_path / "data" / "archive"
    (archive / FILES).mkdir(parents=True)
    source = questions.folder() / "archive"
    (archive / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    for file in (source / FILES).iterdir():
        (archive / FILES / file.name).write_bytes(file.read_bytes())
    (tmp_path / "signing-key").write_text("the secret\n")
    return archive


@pytest.fixture
def history(place: Path) -> Iterator[History]:
    with open_history(place) as history:
        confine(history)
        yield history


def state_of(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "verified.json"
    }


def filled(query: str, archive: Path) -> str:
    file = min((archive / FILES).iterdir())
    key, folder = archive.parents[1] / "signing-key", archive / FILES
    return (
        query.replace("{file}", str(file))
        .replace("{new}", f"{folder}/new.parquet")
        .replace("{folder}", str(folder))
        .replace("{key}", str(key))
    )


@pytest.fixture(scope="module")
def sample() -> Iterator[History]:
    with open_sample() as history:
        confine(history)
        yield history


@pytest.mark.parametrize("query", READING)
def test_what_reads_is_answered(sample: History, query: str) -> None:
    check_reads(query)
    _, blocks = blocks_of(sample, query)

    assert any(blocks)


@pytest.mark.parametrize("query", WRITING)
def test_what_does_more_is_refused_before_it_is_run(query: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_reads(filled(query, questions.folder() / "archive"))

    assert "\n" not in str(refused.value)


OUTSIDE = [
    "copy (select 7) to '{key}'",
    "copy (select 7) to '{key}.csv'",
    "attach '{key}.duckdb'",
    "export database '{key}.all'",
    "set allowed_directories = ['/']",
    "set enable_external_access = true",
    "reset lock_configuration",
    "call enable_logging(storage='file', storage_path='{folder}')",
    "load httpfs",
    "install httpfs",
    "copy (from runs) to 'http://127.0.0.1:1/x.csv'",
]


def test_the_settings_alone_let_no_query_out_of_the_archive(history: History, place: Path) -> None:
    """The second barrier: as if the query had passed the first."""
    before = state_of(place.parents[1])
    for query in [*OUTSIDE, *ELSEWHERE]:
        with pytest.raises(duckdb.Error) as refused:
            answer_of(history, filled(query, place))

        assert "the secret" not in str(refused.value), query
        assert state_of(place.parents[1]) == before, query


def test_both_together_answer_nothing_that_writes_or_reads_elsewhere(history: History, place: Path) -> None:
    before = state_of(place.parents[1])
    for query in [*WRITING, *OUTSIDE, *ELSEWHERE]:
        with pytest.raises(InvalidInput) as refused:
            answer_as_asked(history, filled(query, place))

        assert "the secret" not in str(refused.value), query
        assert state_of(place.parents[1]) == before, query


def answer_of(history: History, query: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = history.execute(query).fetchall()
    return rows


def answer_as_asked(history: History, query: str) -> None:
    """As `esper sql` does it."""
    check_reads(query)
    _, blocks = blocks_of(history, query)
    list(blocks)


@pytest.mark.parametrize("name", ["a?b", "a*b", "a[b]c", "a#b", "a%20b", "a'b", "a\nb", "ä b"])
def test_a_history_is_read_from_a_folder_of_any_name_and_not_from_one_that_its_name_matches(
    tmp_path: Path, place: Path, name: str
) -> None:
    archive = tmp_path / name / "archive"
    archive.parent.mkdir()
    place.rename(archive)
    beside = tmp_path / name.translate(str.maketrans("?*", "xx")) / "archive"
    if beside != archive:  # what the name would match, taken as a pattern
        (beside / FILES).mkdir(parents=True)
        for file in (archive / FILES).iterdir():
            (beside / FILES / file.name).write_bytes(b"no Parquet")
    with open_history(archive) as history:
        confine(history)
        (runs,) = history.execute("select count(*) from runs").fetchone()

    assert runs == 5
    assert "?" not in pattern(Path("a?b")).replace("[?]", "")
