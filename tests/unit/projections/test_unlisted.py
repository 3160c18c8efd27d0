"""What lies in an archive and no manifest lists: set aside, taken over where the log has lost it, not just deleted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from esper.errors import CorruptState
from projections import manifest, open_history, unlisted
from projections.archive_writer import Archive
from projections.compaction import merge_all
from projections.lineage import stored_records
from projections.records import StoredRecord
from projections.repair import Undecided
from projections.testing import LogOfRecords, Trainers

RUNS = ("esper.runs", 0)
BODIES = ("run_resumed", "rolled_back")


@pytest.fixture
def log(any_record) -> list[StoredRecord]:
    """Twelve records of two body types."""
    return [any_record(BODIES[offset % 2], offset) for offset in range(12)]


def archived(folder: Path) -> list[StoredRecord]:
    with open_history(folder) as history:
        return list(stored_records(history))


def grown(folder: Path, log: Sequence[StoredRecord], flushes: int, *, merge: bool) -> None:
    """An archive of the log in so many flushes, merged in the end."""
    with Archive(folder) as archive:
        for start in range(0, len(log), len(log) // flushes):
            archive.append(log[start : start + len(log) // flushes])
        if merge:
            assert merge_all(archive, 2, lambda: 0.0) == set()
            archive.delete_retired(1e9)


@pytest.mark.parametrize("begin", [0, 5, 12], ids=["the log has all", "the log has some", "the log has none"])
@pytest.mark.parametrize("merged", [False, True], ids=["as flushed", "merged since"])
@pytest.mark.parametrize("before", [1, 2, None], ids=["older by two flushes", "older by one", "lost"])
def test_an_older_or_lost_manifest_costs_no_record(begin, merged, before, tmp_path, log):
    """Every record is there once, whatever the log still has, and in the end nothing is set aside any more."""
    folder = tmp_path / "archive"
    grown(folder, log[: 4 * (before or 1)], before or 1, merge=False)
    kept = (folder / manifest.NAME).read_bytes()
    grown(folder, log[4 * (before or 1) :], 3 - (before or 1), merge=merged)
    (folder / manifest.NAME).unlink()
    if before is not None:
        (folder / manifest.NAME).write_bytes(kept)

    with Archive(folder) as archive:
        archive.take_over({RUNS: begin})
        archive.append(log[begin:])
        assert archive.drop_set_aside() > 0
        again = archive.append(log).rows

    assert archived(folder) == log
    assert (again, unlisted.paths(folder)) == (0, [])
    assert manifest.covered(folder) == {RUNS: 12}


def test_a_manifest_of_before_a_merge_finds_the_rows_in_the_merged_files(tmp_path, log):
    """The files that it lists were merged and deleted; nothing is left out, and nothing is there twice."""
    folder = tmp_path / "archive"
    grown(folder, log[:8], 2, merge=False)
    kept = (folder / manifest.NAME).read_bytes()
    with Archive(folder) as archive:
        archive.append(log[8:])
        merge_all(archive, 2, lambda: 0.0)
        archive.delete_retired(1e9)
    (folder / manifest.NAME).write_bytes(kept)

    with Archive(folder) as archive:  # and no log to ask
        assert archive.set_aside == 2
        assert {entry.name for entry in archive.manifest.files} <= {path.name for path in (folder / "files").iterdir()}
    assert archived(folder) == log[:8]
    with Archive(folder) as archive:
        archive.take_over({RUNS: 12})

    assert archived(folder) == log


@pytest.mark.parametrize("lost", [False, True], ids=["older", "lost"])
@pytest.mark.parametrize("starts", [0, 1], ids=["at once", "after a start that was killed"])
def test_names_are_not_given_twice_after_an_older_manifest(starts, lost, tmp_path, log):
    """A flush would else replace the file of the same generation that a reader has open, or that a copy lists."""
    folder = tmp_path / "archive"
    grown(folder, log[:4], 1, merge=False)
    kept = (folder / manifest.NAME).read_bytes()
    grown(folder, log[4:], 2, merge=False)
    before = {path.name for path in (folder / "files").iterdir()}
    (folder / manifest.NAME).write_bytes(kept)
    if lost:
        (folder / manifest.NAME).unlink()

    for _ in range(starts):
        with Archive(folder):  # which comes to no flush
            pass
    with Archive(folder) as archive:
        archive.append(log[4:])
        new = {entry.name for entry in archive.manifest.files} - {
            entry.name for entry in manifest.parse(kept, "").files
        }

    assert not new & before


def test_a_file_with_records_that_nothing_else_holds_stays(tmp_path, log):
    """Another record at the same offset, as of another log: it is neither taken nor deleted."""
    folder, other = tmp_path / "archive", tmp_path / "other"
    grown(folder, log[:4], 1, merge=False)
    grown(
        other,
        [replace(each, key=b"x", value=(each.value or b"") + b"\x80\x01\x01") for each in log[:4]],
        1,
        merge=False,
    )
    stranger = next((other / "files").iterdir())
    shutil.copy(stranger, folder / "files" / "run_resumed-000000077.parquet")

    with Archive(folder) as archive:
        archive.take_over({RUNS: 4})
        assert (archive.set_aside, archive.drop_set_aside()) == (1, 0)
        archive.append(log[4:])

    (found,) = unlisted.looked_at(folder, manifest.load(folder), unlisted.paths(folder))
    assert (found.path.name, found.records, found.missing) == ("run_resumed-000000077.parquet", 2, 2)
    assert archived(folder) == log


def test_what_is_torn_or_no_file_is_stepped_over(tmp_path, log):
    """A torn file is set aside and stays; a folder, a link and a name that is none stay where they are."""
    folder = tmp_path / "archive"
    grown(folder, log[:4], 1, merge=False)
    files = folder / "files"
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (files / "run_resumed-000000002.parquet").write_bytes(b"torn")
    (files / "a-folder").mkdir()
    (files / "run_resumed-000000001 (conflicted copy).parquet").write_bytes(b"PAR1")
    (files / "link.parquet").symlink_to(victim)
    (files / ".new-0123456789abcdef").write_bytes(b"a writer was killed")

    with Archive(folder) as archive:
        assert archive.set_aside == 1
        archive.take_over({RUNS: 12})
        assert archive.drop_set_aside() == 0
        archive.append(log[4:])

    left = {path.name for path in files.iterdir()} - {entry.name for entry in archive.manifest.files}
    assert left == {"a-folder", "run_resumed-000000001 (conflicted copy).parquet", "link.parquet"}
    assert [path.name for path in unlisted.paths(folder)] == ["run_resumed-000000002.parquet"]
    assert victim.read_bytes() == b"mine"
    assert archived(folder) == log


@pytest.mark.parametrize("lost", [True, False], ids=["manifest lost", "manifest of the first flush"])
def test_a_file_set_aside_with_a_damaged_column_is_left_out_and_the_others_are_taken_over(lost, tmp_path, log, caplog):
    """Its places can be read and its records cannot: the archiver ended over it at every start."""
    folder = tmp_path / "archive"
    grown(folder, log[:4], 1, merge=False)
    kept = (folder / manifest.NAME).read_bytes()
    grown(folder, log[4:], 2, merge=not lost)
    (folder / manifest.NAME).unlink()
    if not lost:
        (folder / manifest.NAME).write_bytes(kept)
    damaged = max((folder / "files").glob("run_resumed-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    column = next(
        chunk
        for chunk in map(pq.read_metadata(damaged).row_group(0).column, range(99))
        if chunk.path_in_schema == "log_raw"
    )
    content = bytearray(damaged.read_bytes())
    at = column.dictionary_page_offset or column.data_page_offset
    content[at : at + 8] = b"\xff" * 8
    damaged.write_bytes(content)
    if not lost:  # and a listed one, of which everything is in a merged file
        (folder / "files" / "rolled_back-000000001.parquet").write_bytes(b"damaged")

    with Archive(folder) as archive:
        archive.take_over({RUNS: 12})
        assert archive.drop_set_aside() > 0

    held = archived(folder)
    assert {record.offset for record in log if record not in held} <= {4, 6, 8, 10} | ({0, 2} if not lost else set())
    assert held == [record for record in log if record in held]
    assert "cannot be read" in caplog.text
    assert unlisted.paths(folder) == [folder / "set-aside" / damaged.name]


def test_a_reader_of_an_archive_that_lost_its_manifest_is_told(tmp_path, log):
    """One flush is enough to be a history: before, that passed as an archive in its first second, and was deleted."""
    folder = tmp_path / "archive"
    grown(folder, log[:4], 1, merge=False)
    (folder / manifest.NAME).unlink()

    with pytest.raises(CorruptState, match=r"holds 2 files and no manifest\.json"):
        manifest.load(folder)
    with Archive(folder) as archive:
        assert manifest.load(folder).generation == 0  # its owner is at work
        assert archive.ends() == {RUNS: 4}
    with pytest.raises(CorruptState, match=r"holds 2 files and no manifest\.json"):
        manifest.load(folder)
    assert len(unlisted.paths(folder)) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retired", {"../../../victim": 0}),
        ("retired", {"/etc/victim": 0}),
        ("retired", {"victim": "0"}),
        ("next_offsets", [["../esper.runs", 0, 1]]),
        ("next_offsets", [["esper.runs", 0, -1]]),
        ("gaps", [["a/b", 0, 0, 1]]),
        ("migrations", ["../x"]),
        ("undecided", [7]),
    ],
)
def test_a_manifest_with_names_that_are_none_is_refused(key, value, tmp_path, log):
    grown(tmp_path, log[:4], 1, merge=False)
    as_json = manifest.json.loads((tmp_path / manifest.NAME).read_bytes())
    (tmp_path / manifest.NAME).write_text(manifest.json.dumps({**as_json, key: value}))

    with pytest.raises(CorruptState, match="cannot be read"):
        Archive(tmp_path)


@pytest.mark.parametrize("key", ["name", "table", "shape", "sha256", "rows"])
@pytest.mark.parametrize("value", ["../../.bashrc", "a/b", "", -1, None])
def test_a_file_in_a_manifest_has_a_name(key, value, tmp_path, log):
    grown(tmp_path, log[:4], 1, merge=False)
    as_json = manifest.json.loads((tmp_path / manifest.NAME).read_bytes())
    as_json["files"][0][key] = value
    (tmp_path / manifest.NAME).write_text(manifest.json.dumps(as_json))

    with pytest.raises(CorruptState, match="cannot be read"):
        manifest.load(tmp_path)


def test_a_linked_folder_of_files_is_refused_and_left_alone(tmp_path, log):
    """Start-up deleted what the folder led to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.odt").write_bytes(b"mine")
    folder = tmp_path / "archive"
    grown(folder, log[:4], 1, merge=False)
    shutil.rmtree(folder / "files")
    (folder / "files").symlink_to(elsewhere)

    with pytest.raises(CorruptState, match="is a link or no folder"):
        Archive(folder)
    assert (elsewhere / "thesis.odt").read_bytes() == b"mine"


def test_a_listed_file_is_not_deleted_because_it_is_called_replaced_too(tmp_path, log):
    grown(tmp_path, log[:4], 1, merge=False)
    kept = manifest.load(tmp_path)
    manifest.save(tmp_path, replace(kept, retired=dict.fromkeys([each.name for each in kept.files], 0.0)))

    with Archive(tmp_path) as archive:
        archive.delete_retired(1e9)

    assert archived(tmp_path) == log[:4]


@pytest.mark.parametrize("way", ["put back", "removed"])
def test_a_manifest_that_is_replaced_while_the_archive_is_written_is_written_again(way, tmp_path, log):
    """Until the next flush, which may be hours away, readers would have the older one."""
    with Archive(tmp_path) as archive:
        archive.append(log[:4])
        older = (tmp_path / manifest.NAME).read_bytes()
        archive.append(log[4:])
        assert not archive.keep_manifest()
        (tmp_path / manifest.NAME).unlink()
        if way == "put back":
            (tmp_path / manifest.NAME).write_bytes(older)

        assert archive.keep_manifest()
        assert archived(tmp_path) == log
        assert not archive.keep_manifest()


def test_facts_that_were_left_to_readers_are_judged_after_an_older_manifest_came_back(tmp_path):
    """The list of such runs was in the manifest that went: their facts stayed undecided for ever (a soak found it)."""
    run = Trainers("run")
    for _ in range(3):
        run.complete_epoch(0)
    records = LogOfRecords().place(run.events)
    with Archive(tmp_path / "a") as archive, Archive(tmp_path / "b") as other:
        archive.append(records[:1])
        archive.append(records[1:])
        kept = archive.manifest
        other.append(records[:1])
        other._verdicts = Undecided()  # as while a file is damaged
        other.append(records[1:])
        others = {entry.name: entry.generation for entry in other.manifest.files}
    for name, generation in others.items():
        if generation > 1:
            (tmp_path / "b" / "files" / name).rename(tmp_path / "a" / "files" / name)
    listed = [entry for entry in kept.files if entry.generation == 1]
    gone = [replace(entry, name=entry.name.replace(".", "-x.")) for entry in kept.files if entry.generation > 1]
    manifest.save(tmp_path / "a", replace(kept, files=(*listed, *gone)))

    with Archive(tmp_path / "a") as archive:
        undecided = archive.manifest.undecided
    with open_history(tmp_path / "a") as history:
        query = "SELECT count(*), count(DISTINCT log_offset), min(log_verdict), max(log_verdict) FROM log.facts"
        found = history.execute(query).fetchone()

    assert undecided == ("run",)
    assert found == (len(run.events), len(run.events), 1, 1)
