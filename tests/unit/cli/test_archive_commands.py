"""`esper archive`: status, verify, compact and copy, for people and for programs."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

import pytest

from esper.cli.app import dispatch
from projections import manifest
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A data folder whose archive has one run in three flushes: start, two facts, end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = Trainers("k3f9x2qa")
    run.train(0)
    run.train(0)
    run.finish(0)
    records = LogOfRecords().place(run.events)
    with Archive(tmp_path / "data" / "archive") as archive:
        for part in (records[:1], records[1:2], records[2:]):
            archive.append(part)
    return tmp_path / "data"


@pytest.fixture
def esper(folder, capsys):
    """Runs a command on the folder: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = dispatch([*arguments, "--data-dir", str(folder)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def damage(folder: Path, table: str) -> Path:
    entry = manifest.load(folder / "archive").of(table)[0]
    path = folder / "archive" / "files" / entry.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    return path


def test_status_says_what_is_covered(esper):
    code, out, err = esper("archive", "status")

    assert (code, err) == (0, "")
    assert "4 records in 4 files" in out
    (line,) = (line for line in out.splitlines() if line.startswith("esper.runs/"))
    assert line.split()[1:] == ["0", "4", "4", "0"]
    assert out.splitlines()[-1] == "nothing is plainly missing; `esper archive verify` reads every byte"
    summary = json.loads(esper("archive", "status", "--json")[1])
    assert summary["whole"] is True
    assert (summary["records"], summary["files"], summary["written_now"]) == (4, 4, False)
    assert summary["tables"] == {"learning_rate_changed": 2, "run_finished": 1, "run_started": 1}


def test_status_sees_who_writes_and_what_is_gone(esper, folder):
    damage(folder, "run_finished").unlink()
    with Archive(folder / "archive"):
        code, out, _ = esper("archive", "status")

    assert code == 1
    assert "an archiver writes it now: yes" in out
    assert "is missing; its 1 rows of run_finished are left out" in out


def test_verify_names_the_file_and_what_is_missed(esper, folder):
    assert esper("archive", "verify")[0] == 0
    bad = damage(folder, "learning_rate_changed")

    code, out, err = esper("archive", "verify")

    assert code == 1
    assert f"{bad}: its bytes do not match their checksum" in out
    assert "run k3f9x2qa: facts are missing before sequence 3" in out
    assert out.splitlines()[-1].startswith("not whole: 3 findings")
    assert "Traceback" not in err
    found = json.loads(esper("archive", "verify", "--json")[1])
    assert found["whole"] is False
    assert [each["kind"] for each in found["findings"]] == ["file", "records", "run", "note"]


def test_compact_makes_files_few(esper, folder):
    code, out, _ = esper("archive", "compact", "--json")

    assert code == 0
    assert json.loads(out) == {"files_before": 4, "files": 3, "replaced": 2, "damaged": []}
    assert json.loads(esper("sql", "select count(*) as n from events", "--json")[1]) == [{"n": 4}]
    assert esper("archive", "verify")[0] == 0
    assert esper("archive", "compact")[1].startswith("3 files became 3")


def test_compact_leaves_a_damaged_file_and_says_so(esper, folder):
    bad = damage(folder, "learning_rate_changed")

    code, _, err = esper("archive", "compact")

    assert code == 0
    assert err == f"esper: {bad} is damaged and stays as it is; see `esper archive verify`\n"
    assert bad.exists()


def test_compact_beside_an_archiver_is_refused_in_one_line(esper, folder):
    with Archive(folder / "archive"):
        code, _, err = esper("archive", "compact")

    assert code == 2
    assert "another archiver writes" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_copy_is_asked_where_it_lies(kind, esper, folder, tmp_path):
    """Copied, asked, verified; then what is new."""
    to = f"memory://{secrets.token_hex(6)}/a" if kind == "memory" else str(tmp_path / "copy")
    code, out, _ = esper("archive", "copy", to)
    assert code == 0
    assert "4 files" in out

    assert json.loads(esper("sql", "select count(*) as n from events", "--archive", to, "--json")[1]) == [{"n": 4}]
    assert json.loads(esper("archive", "status", "--archive", to, "--json")[1])["archive"] == to
    assert esper("archive", "verify", "--archive", to)[0] == 0
    again = json.loads(esper("archive", "copy", to, "--json")[1])
    assert (again["copied"], again["there_already"], again["damaged"]) == (0, 4, [])


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_backup_is_restored_byte_for_byte_and_goes_on(kind, esper, folder, tmp_path):
    """Copied, lost, copied back: the same files, verified, and a writer opens it as ever."""
    to = f"memory://{secrets.token_hex(6)}/a" if kind == "memory" else str(tmp_path / "copy")
    files = {file.name: file.read_bytes() for file in (folder / "archive" / "files").iterdir()}
    assert esper("archive", "copy", to)[0] == 0
    shutil.rmtree(folder)

    code, out, err = esper("archive", "copy", str(folder / "archive"), "--archive", to)

    assert (code, err) == (0, "")
    assert "4 files" in out
    assert {file.name: file.read_bytes() for file in (folder / "archive" / "files").iterdir()} == files
    assert esper("archive", "verify")[0] == 0
    with Archive(folder / "archive") as archive:
        assert archive.manifest.next_offsets
    assert [run["run_id"] for run in json.loads(esper("runs", "--json")[1])] == ["k3f9x2qa"]


def test_a_copy_without_a_damaged_file_says_so(esper, folder, tmp_path):
    bad = damage(folder, "run_finished")

    code, _, err = esper("archive", "copy", str(tmp_path / "copy"))

    assert code == 1
    assert f"{bad}: its bytes do not match their checksum" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["archive", "status", "--archive", "nowhere://x"], "nowhere"),
        (["archive", "verify", "--archive", "/no/such/place"], "holds no archive"),
        (["archive", "copy", "nowhere://x"], "nowhere"),
        (["sql", "select 1", "--archive", "/no/such/place"], "holds no archive"),
        (["sql", "select 1", "--archive", "memory://no-such-place"], "holds no archive"),
    ],
)
def test_a_wrong_place_is_one_line(esper, arguments, says):
    code, _, err = esper(*arguments)

    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_folder_without_an_archive_is_one_line(tmp_path, capsys):
    assert dispatch(["archive", "status", "--data-dir", str(tmp_path)]) == 2
    assert "holds no archive; run `esper run`" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("runs",), ("sql", "select 1"), ("archive", "status"), ("archive", "verify")])
def test_a_history_that_lost_its_manifest_is_not_an_empty_one(words, esper, folder):
    (folder / "archive" / "manifest.json").unlink()
    (folder / "archive" / "files" / "run_started-000000002-000000003-merged.parquet").write_bytes(b"")

    code, out, err = esper(*words)

    assert (code, out) == (2, "")
    assert "no manifest.json that lists them: restore it from a copy" in err
    assert err.count("\n") == 1


def test_a_store_that_does_not_answer_is_one_line(esper):
    code, _, err = esper("archive", "copy", "ftp://127.0.0.1:1/esper")

    assert code == 2
    assert err.startswith("esper: ftp://127.0.0.1:1/esper does not answer: ConnectionRefusedError")
    assert err.count("\n") == 1
