"""How a run may begin: a run id that the history has is no new one."""

from __future__ import annotations

import threading

import pytest

from esper.errors import InvalidInput, LogUnavailable
from esper.weatherlight import beginning
from esper.weatherlight.beginning import Plan, archived_claims, check_new
from projections import manifest
from projections.archive_writer import Archive
from projections.manifest import covered
from projections.testing import LogOfRecords, Trainers


def test_an_id_that_the_archive_has_is_not_given_twice(tmp_path):
    assert check_new(tmp_path / "archive", "k3f9x2qa") == {}
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(Trainers("k3f9x2qa").events))

    assert check_new(tmp_path / "archive", "another") == covered(tmp_path / "archive")
    with pytest.raises(InvalidInput, match=r"run k3f9x2qa was started before: .* `esper resume k3f9x2qa`"):
        check_new(tmp_path / "archive", "k3f9x2qa")


def test_an_archive_that_lost_a_runs_start_knows_the_run_by_its_other_facts(tmp_path):
    """And one with a damaged file does not say of any id that nobody had it: the log is asked from its beginning."""
    trainers = Trainers("k3f9x2qa")
    trainers.complete_epoch(0)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(trainers.events))
    (start,) = (tmp_path / "archive" / "files").glob("run_started-*")
    start.write_bytes(b"damaged")

    with pytest.raises(InvalidInput, match="was started before"):
        check_new(tmp_path / "archive", "k3f9x2qa")
    assert check_new(tmp_path / "archive", "another") == {}


def test_the_claims_that_the_log_deleted_come_from_the_archive(tmp_path):
    trainers = Trainers("k3f9x2qa")
    records = LogOfRecords().place(trainers.events)
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)
    find = archived_claims(tmp_path / "archive", "k3f9x2qa")
    (started,) = (place for place, event in enumerate(trainers.events) if event.HasField("run_started"))

    partition = records[0].partition
    (claim,) = find(partition, started, len(records))
    assert (claim.offset, claim.signed.payload) == (records[started].offset, records[started].value)
    assert find(partition, started + 1, len(records)) == archived_claims(tmp_path / "none", "k3f9x2qa")(0, 0, 9) == []


def test_a_plan_goes_to_the_trainers_process_and_comes_back():
    plan = Plan("fork", "builtin:digits", "parent", 12, "cull s2", fresh=True)

    assert Plan.from_json(plan.to_json()) == plan
    assert not Plan().fresh, "whoever starts a trainer by hand may give it an id that there is"


def test_what_is_read_is_what_was_waited_for_though_an_older_manifest_comes_between(tmp_path, monkeypatch):
    """A resume read the run by it, and took an incarnation that another had claimed since (a soak found it)."""
    run = Trainers("run")
    run.complete_epoch(0)
    run.resume(0, 0)
    records = LogOfRecords().place(run.events)
    with Archive(tmp_path) as archive:
        archive.append(records[:1])
        older = (tmp_path / manifest.NAME).read_bytes()
        archive.append(records[1:])
    newer, asked = (tmp_path / manifest.NAME).read_bytes(), []
    looked = beginning.covered

    def covered(folder):
        found = looked(folder)
        asked.append(found)
        (tmp_path / manifest.NAME).write_bytes(older if len(asked) == 1 else newer)
        return found

    monkeypatch.setattr(beginning, "covered", covered)
    place = (records[0].topic, records[0].partition)
    recorded = beginning.read_recorded(tmp_path, "run", {place: len(records)})

    assert len(asked) > 1
    assert len(recorded.facts) == len(records)


def test_the_claims_that_the_log_deleted_are_waited_for_while_an_older_manifest_is_there(tmp_path):
    """A second start found nobody: the log had deleted the first, and the archive had forgotten it for a moment."""
    trainers = Trainers("k3f9x2qa")
    trainers.complete_epoch(0)
    trainers.resume(0, 0)
    records = LogOfRecords().place(trainers.events)
    with Archive(tmp_path) as archive:
        archive.append(records[:1])
        older = (tmp_path / manifest.NAME).read_bytes()
        archive.append(records[1:])
    newer = (tmp_path / manifest.NAME).rename(tmp_path / "newer")
    (tmp_path / manifest.NAME).write_bytes(older)
    back = threading.Timer(0.2, newer.replace, [tmp_path / manifest.NAME])
    back.start()
    found = archived_claims(tmp_path, "k3f9x2qa")(records[0].partition, 1, records[-1].offset + 1)
    back.join()

    assert [claim.offset for claim in found] == [records[-1].offset]


def test_an_archive_that_does_not_come_so_far_does_not_say_that_nobody_has_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "CLAIMED_S", 0.1)
    records = LogOfRecords().place(Trainers("k3f9x2qa").events)
    with Archive(tmp_path) as archive:
        archive.append(records)

    with pytest.raises(LogUnavailable, match=r"lacks the end of the log still, after 0 s \(7 records\)"):
        archived_claims(tmp_path, "k3f9x2qa")(records[0].partition, 0, len(records) + 7)


@pytest.mark.parametrize("table", ["run_started", "run_resumed"])
def test_a_damaged_file_of_claims_does_not_say_that_nobody_has_the_run(tmp_path, monkeypatch, table):
    """An older manifest lists files that were merged since; a start went by what was left."""
    monkeypatch.setattr(beginning, "CLAIMED_S", 0.1)
    monkeypatch.setattr(beginning, "ARCHIVED_S", 0.1)
    trainers = Trainers("run")
    trainers.complete_epoch(0)
    trainers.resume(0, 0)
    records = LogOfRecords().place(trainers.events)
    with Archive(tmp_path) as archive:
        archive.append(records)
    next((tmp_path / "files").glob(f"{table}-*")).unlink()
    place = (records[0].topic, records[0].partition)

    with pytest.raises(LogUnavailable, match=f"{table}-.*`esper archive repair"):
        archived_claims(tmp_path, "run")(records[0].partition, 0, len(records))
    with pytest.raises((LogUnavailable, InvalidInput)):
        beginning.read_recorded(tmp_path, "run", {place: len(records)})
