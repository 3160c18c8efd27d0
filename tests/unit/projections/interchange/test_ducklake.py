"""The SQL of a catalogue: what it lists, and that a DuckDB with the extension reads the archive by it."""

from __future__ import annotations

import json
import os
import subprocess

import duckdb
import pytest

from esper.cli.app import dispatch
from projections import manifest, open_sample, questions

READ = """
import json, os, sys
import duckdb
connection = duckdb.connect()
if extension := os.environ.get("ESPER_TEST_DUCKLAKE_EXTENSION"):
    connection.execute(f"LOAD '{extension}'")
connection.execute(sys.stdin.read())
connection.execute(f"ATTACH 'ducklake:{sys.argv[1]}' AS esper (READ_ONLY)")
found = connection.execute("SELECT run_id, count(*) FROM esper.epoch_completed GROUP BY ALL").fetchall()
sys.stderr.write(json.dumps(found))
"""


def sql_for(file, capsys) -> str:
    given = ["archive", "ducklake", str(file), "--sql", "--json", "--data-dir", str(questions.folder())]
    assert dispatch(given) == 0
    return json.loads(capsys.readouterr().out)["sql"]


def test_the_sql_registers_every_file_of_the_manifest_once_in_its_table(tmp_path, capsys):
    text = sql_for(tmp_path / "it's.ducklake", capsys)

    duckdb.extract_statements(text)  # whatever the path is called
    listed = manifest.load(questions.folder() / "archive").files
    calls = [line for line in text.splitlines() if line.startswith("CALL ducklake_add_data_files")]
    assert len(calls) == len(listed) > 20
    assert all(any(f"'{each.table}', '" in call and f"/{each.name}'" in call for call in calls) for each in listed)


def test_a_file_that_is_there_is_left_alone(tmp_path, capsys):
    file = tmp_path / "esper.ducklake"
    file.write_text("something else")
    code = dispatch(["archive", "ducklake", str(file), "--data-dir", str(questions.folder())])

    assert code == 2
    assert "a catalogue is made anew" in capsys.readouterr().err
    assert file.read_text() == "something else"


@pytest.mark.skipif(
    "ESPER_TEST_DUCKLAKE" not in os.environ, reason="ESPER_TEST_DUCKLAKE names no Python whose DuckDB has ducklake"
)
def test_a_duckdb_with_the_extension_sees_the_runs(tmp_path, capsys):
    text = sql_for(tmp_path / "esper.ducklake", capsys)
    extension = os.environ.get("ESPER_TEST_DUCKLAKE_EXTENSION")
    given = text.removeprefix("LOAD ducklake;") if extension else text
    command = [os.environ["ESPER_TEST_DUCKLAKE"], "-c", READ, str(tmp_path / "esper.ducklake")]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    with open_sample() as history:
        expected = history.execute("SELECT run_id, count(*) FROM log.epoch_completed GROUP BY ALL").fetchall()
    assert sorted(map(tuple, json.loads(done.stderr))) == sorted(expected)
