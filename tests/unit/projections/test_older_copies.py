"""An older copy of any part of a data folder, alone or with another: nothing is missing from the answers unnamed.

The folder is made by the real writers. "The log" is the list of records that a log would give, as long as it was when
the copy was made where it is the log that is put back, and without its first records, which retention deleted.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.leyline.objects import ObjectStore
from projections import manifest, open_history
from projections.archive_writer import Archive
from projections.compaction import merge_all
from projections.cross_checks import Beside
from projections.lineage import stored_records
from projections.records import StoredRecord
from projections.testing import LogOfRecords, Trainers
from projections.wholeness import examine

PARTS = {
    "manifest": "archive/manifest.json",
    "files": "archive/files",
    "verified": "archive/verified.json",
    "archive": "archive",
    "objects": "objects",
    "log": "log",
}
BEGIN = 3
"""What the log has no more."""


def put_back(data: Path, older: Path, part: str) -> None:
    target = data / PARTS[part]
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    copied = older / PARTS[part]
    if copied.is_dir():
        shutil.copytree(copied, target)
    elif copied.exists():
        shutil.copy2(copied, target)


def look(data: Path) -> None:
    """As any reader does, which remembers what it verified."""
    with open_history(data / "archive") as history:
        history.execute("SELECT count(*) FROM log.every").fetchall()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[StoredRecord]]:
    """A data folder, its copy of halfway, and all its records, in the log's order."""
    base = tmp_path_factory.mktemp("copies")
    data, older = base / "data", base / "older"
    run, store = Trainers("run"), ObjectStore(data / "objects")
    for epoch in range(5):
        run.complete_epoch(0)
        run.publish(run.trainers[0], pb.CheckpointSaved(ref=store.put(b"state %d" % epoch)))
        if epoch == 2:
            half = len(run.events)
            shutil.copytree(data / "objects", older / "objects")
    records = LogOfRecords().place(run.events)
    (data / "log").mkdir()
    with Archive(data / "archive") as archive:
        for start in range(0, half, 2):
            archive.append(records[start : min(start + 2, half)])
    look(data)
    (data / "log" / "records").write_text(str(half))
    shutil.copytree(data / "archive", older / "archive")
    shutil.copytree(data / "log", older / "log")
    (data / "log" / "records").write_text(str(len(records)))
    with Archive(data / "archive") as archive:
        merge_all(archive, 2, lambda: 0.0)
        archive.delete_retired(1e9)
        for start in range(half, len(records), 2):
            archive.append(records[start : start + 2])
    look(data)
    return data, older, records


@pytest.mark.parametrize("parts", [*itertools.combinations(PARTS, 1), *itertools.combinations(PARTS, 2)], ids="+".join)
def test_nothing_is_missing_that_is_not_named(parts: Sequence[str], folders, tmp_path: Path):
    whole, older, records = folders
    data = tmp_path / "data"
    shutil.copytree(whole, data)
    for part in sorted(parts, key=len, reverse=True):
        put_back(data, older, part)
    log = records[: int((data / "log" / "records").read_text())]
    place = (log[0].topic, log[0].partition)
    told = {"behind", "stray", "note"}
    named = [each for each in check(data, {place: len(log)}) if each.kind in told or each.serious]

    found = answers(data)
    missing = [record for record in records if record not in found]
    assert bool(named) >= bool(missing), f"{len(missing)} records are missing and nothing says so"
    with Archive(data / "archive") as archive:
        if archive.ends().get(place, 0) > len(log):  # as the archiver refuses such a log
            assert "log" in {each.kind for each in named}
            return
        archive.take_over({place: BEGIN})
        archive.append(log[BEGIN:])
        archive.drop_set_aside()
    named = [each for each in check(data, {place: len(log)}) if each.kind == "note" or each.serious]
    found = answers(data)
    missing = [record for record in records[: len(log)] if record not in found]
    assert bool(named) >= bool(missing), f"{len(missing)} records are missing and nothing says so: {missing}"
    assert "repeated" not in {each.kind for each in named}
    assert not {"files", "archive"}.isdisjoint(parts) or not missing, "what lies in files is taken over"


def answers(data: Path) -> list[StoredRecord]:
    with open_history(data / "archive") as history:
        return list(stored_records(history))


def check(data: Path, ends: dict[manifest.Place, int]):
    with open_history(data / "archive") as history:
        return examine(history, beside=Beside(ends=ends, objects=ObjectStore(data / "objects")))
