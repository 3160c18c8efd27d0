"""Every way of changing an exported folder is found."""

from __future__ import annotations

import hashlib
import json
import re

import duckdb
import pytest

from esper.cli.app import dispatch
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from projections.export import SUMS, sums, verify_export


def resign(folder):
    """What somebody does who changes a file and makes the list of checksums anew."""
    (folder / SUMS).write_text("".join(f"{digest}  {path}\n" for path, digest in sums(folder).items()))


def rows_of(path):
    ((count,),) = duckdb.sql(f"select count(*) from read_parquet('{path}')").fetchall()
    return count


def rewrite(folder, table, select, where="true"):
    """Replace a table's file by what `select` makes of it, with the manifest and all checksums made anew."""
    (path,) = (folder / "archive" / "files").glob(f"{table}-*.parquet")
    with duckdb.connect() as connection:
        source = f"read_parquet('{path}')"
        kept = f"select {select} from {source} where {where.format(source=source)}"
        connection.execute(f"copy ({kept}) to '{path}.new' (format parquet)")
    path.with_name(f"{path.name}.new").replace(path)
    listed = json.loads((folder / "archive" / "manifest.json").read_text())
    (entry,) = [each for each in listed["files"] if each["name"] == path.name]
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["rows"] = rows_of(path)
    (folder / "archive" / "manifest.json").write_text(json.dumps(listed))
    resign(folder)


def test_a_changed_missing_or_added_file_is_named(copy):
    (copy / "README.md").write_text("other")
    (copy / "views.sql").unlink()
    (copy / "extra").touch()

    assert set(verify_export(copy).problems) == {
        "README.md was changed",
        "views.sql is missing",
        "extra was added",
    }


def test_a_damaged_table_is_named_and_the_run_lacks_events(copy):
    (path,) = (copy / "archive" / "files").glob("seed_transitioned-*.parquet")
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    problems = verify_export(copy).problems

    assert f"archive/files/{path.name} was changed" in problems
    assert any("has other events" in problem for problem in problems)


def test_a_column_that_tells_another_story_than_the_event_is_found(copy):
    """All checksums are right, and the run's digest too: only the event's own bytes say what was measured."""
    rewrite(copy, "run_finished", "* replace (test_accuracy + 0.01 as test_accuracy)")

    (problem,) = verify_export(copy).problems
    assert re.fullmatch(r"run_finished-\S+ has rows that are not what their own bytes say \(10 differences\)", problem)


def test_a_row_that_was_taken_out_is_found_by_the_digest(copy):
    rewrite(copy, "gate_evaluated", "*", where="log_offset > (select min(log_offset) from {source})")
    problems = verify_export(copy).problems

    assert problems
    assert all(problem.startswith("run ") and "has other events" in problem for problem in problems)


def test_another_event_in_its_place_is_found_by_the_digest(copy):
    """Here column and bytes agree; the run is another one."""
    event = "unhex(replace(hex(log_raw), hex('heuristic'::blob), hex('different'::blob)))::blob"
    rewrite(copy, "run_started", f"* replace ({event} as log_raw, replace(policy, 'heuristic', 'different') as policy)")
    problems = verify_export(copy).problems

    assert any("has other events" in problem for problem in problems)


def test_a_run_that_was_put_in_or_left_out_of_the_list_is_named(copy):
    contents = json.loads((copy / "export.json").read_text())
    gone = contents["runs"].pop(0)
    (copy / "export.json").write_text(json.dumps(contents))
    resign(copy)

    assert verify_export(copy).problems == (f"run {gone['run_id']} was added",)


@pytest.mark.parametrize("spoil", [SUMS, "export.json"])
def test_what_is_no_export_is_said_to_be_none(copy, spoil):
    (copy / spoil).write_text("nothing of the kind")
    with pytest.raises(InvalidInput, match=f"is no export: its {spoil} cannot be read"):
        verify_export(copy)


def test_another_format_is_refused(copy):
    (copy / "export.json").write_text(json.dumps({"format": 99, "runs": []}))
    with pytest.raises(InvalidInput, match="another format"):
        verify_export(copy)


def test_objects_come_with_what_they_name_and_no_others(related, tmp_path):
    to = tmp_path / "to"
    assert dispatch(["export", "first", "--data-dir", str(related), "--to", str(to), "--with-objects"]) == 0
    held = ObjectStore(to / "objects")
    stored = [path for path in (to / "objects").rglob("*") if path.is_file()]

    assert len(stored) == 2
    assert held.get(f"sha256:{hashlib.sha256(b'the weights').hexdigest()}") == b"the weights"
    assert verify_export(to).problems == ()
    stored[0].write_bytes(b"")
    resign(to)
    assert any("should be compressed and is not" in problem for problem in verify_export(to).problems)


def test_verify_says_what_differs_and_exits_with_1(copy, capsys):
    (copy / "views.sql").unlink()

    assert dispatch(["verify", str(copy)]) == 1
    assert "views.sql is missing" in capsys.readouterr().out
    assert dispatch(["verify", str(copy), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["intact"] is False


def test_a_file_that_is_gone_is_named_where_another_of_its_kind_is_there(copy):
    """A history that was written by several Espers has a file for every shape of a table."""
    (path,) = (copy / "archive" / "files").glob("decision_made-*.parquet")
    older = path.with_name(path.name.replace("decision_made-", "decision_made-older"))
    with duckdb.connect() as connection:
        halves = {path: ("*", 1), older: ("* exclude (value_estimate)", 0)}
        for to, (columns, odd) in halves.items():
            rows = f"select {columns} from read_parquet('{path}') where log_offset % 2 = {odd}"
            connection.execute(f"copy ({rows}) to '{to}.new' (format parquet)")
    listed = json.loads((copy / "archive" / "manifest.json").read_text())
    (entry,) = [each for each in listed["files"] if each["name"] == path.name]
    listed["files"].append({**entry, "name": older.name, "shape": "older"})
    for each in (listed["files"][-1], entry):
        file = path.with_name(each["name"])
        file.with_name(f"{file.name}.new").replace(file)
        each["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        each["rows"] = rows_of(file)
    (copy / "archive" / "manifest.json").write_text(json.dumps(listed))
    resign(copy)
    assert verify_export(copy).problems == ()
    older.unlink()

    assert f"archive/files/{older.name} is missing" in verify_export(copy).problems
