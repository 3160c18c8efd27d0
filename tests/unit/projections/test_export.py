"""An exported folder: whole, asked with plain DuckDB, and every way of changing it is found."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys

import duckdb
import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.app import dispatch
from esper.errors import CorruptState, InvalidInput
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from projections import export, open_history, open_sample, questions
from projections.archive import Archive
from projections.export import SUMS, family, sums
from projections.testing import LogOfRecords
from projections.verify_export import verify_export

PLAIN = """
import sys, duckdb, json
folder, query = sys.argv[1:]
history = duckdb.connect()
history.execute(f"SET file_search_path = '{folder}'")
history.execute(open(f"{folder}/views.sql").read())
assert "projections" not in sys.modules
print(json.dumps(history.execute(query).fetchall(), default=str))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The whole small history, exported."""
    folder = tmp_path_factory.mktemp("export") / "made"
    with open_sample() as history:
        runs = [run_id for (run_id,) in history.execute("select run_id from runs order by run_id").fetchall()]
        export.export(history, runs, folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(made, tmp_path / "copy")


def plain(folder, query):
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(folder), query], capture_output=True, text=True, check=True
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


@pytest.mark.parametrize(
    "view", ["runs", "transitions", "commands", "blueprint_outcomes", "fold_stages", "fold_problems"]
)
def test_plain_duckdb_sees_what_esper_sees(made, view):
    with open_sample() as history:
        expected = as_json(history.execute(f"from {view} order by all").fetchall())

    assert plain(made, f"from {view} order by all") == expected
    assert expected or view == "fold_problems"


def test_plain_duckdb_answers_the_standard_questions(made):
    takes_none = [name for name in questions.names() if "$" not in questions.text(name)]
    with open_sample() as history:
        expected = {name: as_json(questions.ask(history, name).fetchall()) for name in takes_none}

    assert len(takes_none) > 10
    assert {name: plain(made, questions.text(name)) for name in takes_none[:4]} == {
        name: expected[name] for name in takes_none[:4]
    }
    connection = duckdb.connect()
    connection.execute(f"SET file_search_path = '{made}'; {(made / 'views.sql').read_text()}")
    assert {name: as_json(connection.execute(questions.text(name)).fetchall()) for name in takes_none} == expected


def test_plain_duckdb_knows_what_the_columns_mean(made):
    query = "select comment from duckdb_columns() where table_name = 'epochs' and column_name = 'probe_loss'"

    assert plain(made, query) == [["mean loss on the probe set [nats]"]]


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
    assert plain(made, export.DIGESTS)[0][-1] == runs[one]
    assert verify_export(tmp_path / "again").problems == ()


def resign(folder):
    """What somebody does who changes a file and makes the list of checksums anew."""
    (folder / SUMS).write_text("".join(f"{digest}  {path}\n" for path, digest in sums(folder).items()))


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
    assert re.fullmatch(r"run_finished-\S+ has rows that are not what their own bytes say \(8 differences\)", problem)


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


def archive_of(folder, *started):
    """An archive of runs that only began, each with what is said of its start."""
    log = LogOfRecords()
    events = [
        new_event(
            pb.RunStarted(task="digits", **about),
            event_id=ids.derived_id(run_id.encode(), "start", 0),
            run_id=run_id,
            producer="trainer",
            recorded_at_ns=1_760_000_000_000_000_000 + place,
            sequence=1,
            incarnation=1,
            timeline=1,
        )
        for place, (run_id, about) in enumerate(started)
    ]
    with Archive(folder / "archive") as archive:
        archive.append(log.place(events))


@pytest.fixture
def related(tmp_path):
    """A run with a control, a fork of it, a fork of that, and a stranger; the first names objects."""
    store = ObjectStore(tmp_path / "data" / "objects")
    inner = store.put(b"the weights")
    outer = store.put(json.dumps({"tensors_ref": inner}).encode())
    archive_of(
        tmp_path / "data",
        ("first", {"task_source": outer.replace("sha256:", "file:"), "config_json": f"{outer} sha256:{'0' * 64}"}),
        ("first-control", {"control_of": "first"}),
        ("fork", {"parent_run_id": "first"}),
        ("fork2", {"parent_run_id": "fork"}),
        ("fork2-control", {"control_of": "fork2"}),
        ("other", {}),
    )
    store.put(b"of nobody")
    return tmp_path / "data"


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
        export.export(history, ["first"], tmp_path / "to", store.root)

    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_verify_says_what_differs_and_exits_with_1(copy, capsys):
    (copy / "views.sql").unlink()

    assert dispatch(["verify", str(copy)]) == 1
    assert "views.sql is missing" in capsys.readouterr().out
    assert dispatch(["verify", str(copy), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["intact"] is False
