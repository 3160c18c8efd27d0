"""An exported folder: whole, and asked with plain DuckDB."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from esper.cli.app import dispatch
from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.weatherlight.client import join
from projections import export, open_history, open_sample, questions
from projections.archive_writer import Archive
from projections.export import SUMS, family, verify_export

VIEWS = ("runs", "transitions", "commands", "blueprint_outcomes", "seeds", "accepted_facts", "stops")
PLAIN = """
import sys, duckdb, json
folder, *queries = sys.argv[1:]
history = duckdb.connect()
history.execute(f"SET file_search_path = '{folder}'")
history.execute(open(f"{folder}/views.sql").read())
assert "projections" not in sys.modules
print(json.dumps([history.execute(query).fetchall() for query in queries], default=str))
"""


def plain(folder, *queries):
    """What a process that has DuckDB and nothing of ours answers, query by query."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(folder), *queries], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def as_json(rows):
    return json.loads(json.dumps(rows, default=str))


def test_it_is_what_was_exported(made):
    verdict = verify_export(made)

    assert verdict.problems == ()
    assert len(verdict.runs) == 5
    assert verdict.events > 1_000
    assert verdict.digest == hashlib.sha256((made / SUMS).read_bytes()).hexdigest()


def test_plain_duckdb_sees_what_esper_sees(made):
    queries = [f"from {view} order by all" for view in VIEWS]
    with open_sample() as history:
        expected = [as_json(history.execute(query).fetchall()) for query in queries]

    for view, found, wanted in zip(VIEWS, plain(made, *queries), expected, strict=True):
        assert found == wanted, view
        assert wanted or view == "stops"


def test_plain_duckdb_answers_the_standard_questions(made):
    takes_none = [name for name in questions.names() if "$" not in questions.text(name)]
    with open_sample() as history:
        expected = {name: as_json(questions.ask(history, name).fetchall()) for name in takes_none}

    assert len(takes_none) > 10
    found = plain(made, *(questions.text(name) for name in takes_none))
    assert dict(zip(takes_none, found, strict=True)) == expected


def test_plain_duckdb_knows_what_the_columns_mean(made):
    query = "select comment from duckdb_columns() where table_name = 'epochs' and column_name = 'probe_loss'"

    assert plain(made, query) == [[["mean loss on the probe set [nats]"]]]


def test_sha256sum_checks_the_files(made, copy):
    """As the folder's README says; the checksums are those of that program, so it needs no Esper."""
    command = ["sha256sum", "--check", "--quiet", SUMS]

    assert subprocess.run(command, cwd=made, capture_output=True, check=False).returncode == 0
    (copy / "views.sql").write_text("select 1")
    assert subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 1


def test_no_path_of_this_machine_is_in_it(made, tmp_path):
    assert str(tmp_path.parent) not in (made / "views.sql").read_text()
    assert str(made) not in "".join(path.read_text() for path in made.glob("*.*"))


def test_the_digest_of_a_run_does_not_depend_on_its_files(made, tmp_path):
    """The README's query gives it from any copy of the run: here from an export of an export, of one run of them."""
    runs = {run["run_id"]: run["digest"] for run in json.loads((made / "export.json").read_text())["runs"]}
    one = min(runs)
    with open_history(made / "archive") as history:
        export.export(history, [one], tmp_path / "again")
    (told,) = json.loads((tmp_path / "again" / "export.json").read_text())["runs"]

    assert told["digest"] == runs[one]
    assert plain(made, export.DIGESTS)[0][0][-1] == runs[one]
    assert verify_export(tmp_path / "again").problems == ()


@pytest.mark.parametrize(
    ("run_id", "comes"),
    [
        ("first", ("first", "first-control")),
        ("fork2", ("fork2", "first", "first-control", "fork", "fork2-control")),
        ("first-control", ("first-control",)),
        ("other", ("other",)),
    ],
)
def test_controls_and_ancestors_come_along_and_nobody_else(related, run_id, comes):
    with open_history(related / "archive") as history:
        assert family(history, run_id) == comes


def test_an_export_is_a_data_folder(related, tmp_path, capsys):
    to = tmp_path / "to"
    assert dispatch(["export", "fork2", "--data-dir", str(related), "--to", str(to), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert dispatch(["runs", "--data-dir", str(to), "--json"]) == 0
    runs = {run["run_id"] for run in json.loads(capsys.readouterr().out)}

    assert runs == set(told["runs"])
    assert "other" not in runs
    assert dispatch(["verify", str(to), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == told["digest"]


def test_nothing_is_overwritten(related, tmp_path, capsys):
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine").write_text("kept")

    assert dispatch(["export", "first", "--data-dir", str(related), "--to", str(to)]) == 2
    assert "exists, and an export overwrites nothing" in capsys.readouterr().err
    assert [path.name for path in to.iterdir()] == ["mine"]


def test_a_damaged_history_is_not_exported_and_leaves_nothing(related, tmp_path):
    (path,) = (related / "archive" / "files").glob("run_started-*.parquet")
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with open_history(related / "archive") as history, pytest.raises(CorruptState, match="would lack rows"):
        export.export(history, ["first"], tmp_path / "to")

    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_a_failure_on_the_way_leaves_nothing(related, tmp_path):
    """A store whose object was changed: what cannot be checked is not passed on."""
    store = ObjectStore(related / "objects")
    digest = hashlib.sha256(b"the weights").hexdigest()
    (store.root / digest[:2] / digest[2:]).write_bytes(b"other weights")
    with open_history(related / "archive") as history, pytest.raises(CorruptState, match="does not match its digest"):
        export.export(history, ["first"], tmp_path / "to", store)

    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_a_place_where_no_folder_can_be_is_named(related, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    to = tmp_path / "file" / "to"

    assert dispatch(["export", "first", "--data-dir", str(related), "--to", str(to)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"esper: {to} cannot be made: ")
    assert said.endswith("; name another folder with --to\n")


def test_nothing_is_written_into_an_export(copy):
    """Its events have no offsets here: a run in it mixed two logs, and the archiver took over its manifest."""
    before = export.sums(copy)

    for start in (lambda: Archive(copy / "archive"), lambda: join(copy, client="a test")):
        with pytest.raises(InvalidInput, match=r"is an export, which is read and never written.*--data-dir"):
            start()
    assert export.sums(copy) == before
