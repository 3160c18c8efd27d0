"""What contradicts an archive is named: its log, its keys, its objects, and its own events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing, key_id
from projections import manifest, open_history
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.cross_checks import Beside, unverified
from projections.export import export
from projections.records import StoredRecord
from projections.shared_objects import SharedObjects
from projections.testing import LogOfRecords, Trainers, story
from projections.wholeness import examine, survey

NOTHING = Beside()
OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def run() -> Trainers:
    """A run of three facts."""
    made = Trainers("run")
    made.complete_epoch(0)
    made.complete_epoch(0)
    return made


def signed(records: list[StoredRecord], secret: bytes) -> list[StoredRecord]:
    def one(record: StoredRecord) -> StoredRecord:
        by = KeyRing((secret,)).sign(record.value or b"")
        assert by.signature is not None
        return replace(record, headers=((HEADER_KEY_ID, key_id(secret).encode()), (HEADER_SIGNATURE, by.signature)))

    return [one(record) for record in records]


def put(folder: Path, records: list[StoredRecord], keys: KeyRing | None = None) -> None:
    with Archive(folder, keys) as archive:
        archive.append(records)


def found(folder: Path, beside: Beside = NOTHING) -> list[tuple[str, str]]:
    with open_history(folder) as history:
        return [(each.kind, each.where) for each in examine(history, beside=beside)]


@pytest.mark.parametrize(
    ("end", "written", "kinds"),
    [(3, False, []), (2, False, ["log"]), (0, True, ["log"]), (5, False, ["behind"]), (5, True, [])],
)
def test_where_the_log_ends_is_compared(end, written, kinds, tmp_path, run):
    """A log that ends before the archive was restored from an older copy; one that has more is not archived yet."""
    records = LogOfRecords().place(run.events)
    put(tmp_path, records)
    place = (records[0].topic, records[0].partition)
    beside = Beside(ends={place: end, ("esper.commands", 0): 0}, written=written)

    assert [each.kind for each in survey(Folder.at(tmp_path), manifest.load(tmp_path), beside)] == kinds
    assert [kind for kind, _ in found(tmp_path, beside)] == kinds


def test_runs_that_an_exchanged_key_made_invalid_are_named(tmp_path, run):
    """An archive that is made anew under another key lost every older run, and was called whole."""
    records = signed(LogOfRecords().place(run.events), OLD)
    put(tmp_path / "before", records, KeyRing((OLD,)))
    put(tmp_path / "rebuilt", records, KeyRing((NEW,)))

    assert found(tmp_path / "before") == []
    assert ("key", f"key {key_id(OLD)}: 3 records") in found(tmp_path / "rebuilt")
    with open_history(tmp_path / "rebuilt") as history:
        assert unverified(history) == [(key_id(OLD), 3, ["run"])]


def test_what_came_under_a_key_that_was_retired_by_then_is_named(tmp_path, run):
    """Dated back by its own clock it verifies; when it arrived says otherwise."""
    records = signed(LogOfRecords().place(run.events), OLD)
    put(tmp_path, records, KeyRing((OLD,)))
    between = records[2].timestamp * 1_000_000

    assert found(tmp_path, Beside(keys=KeyRing((NEW,), {OLD: between}))) == [("key", f"key {key_id(OLD)}: 1 records")]
    assert found(tmp_path, Beside(keys=KeyRing((NEW,), {OLD: between + 1_000_000}))) == []


def test_a_wrong_verdict_in_the_files_is_named(tmp_path, run):
    """Nobody looked whether the column says what the rule says."""
    records = LogOfRecords().place(run.events)
    put(tmp_path / "a", records)
    with Archive(tmp_path / "b") as archive:
        archive.append(records[:2])
        take = archive._verdicts.take_all
        archive._verdicts.take_all = lambda facts: [verdict + 1 for verdict in take(facts)]
        archive.append(records[2:])

    assert found(tmp_path / "a") == []
    assert found(tmp_path / "b") == [("verdict", "run run")]


def test_a_decision_on_a_packet_that_is_not_there_is_named(tmp_path):
    """The log acknowledged both and lost the fact, which was the run's last: no gap in its sequence tells."""
    events = [event for event in story() if event.run_id == "grown-control"]
    packet = next(event for event in reversed(events) if event.HasField("epoch_completed"))
    whole = LogOfRecords().place(events)
    cut = LogOfRecords().place([event for event in events if 0 <= event.sequence < packet.sequence])
    put(tmp_path / "whole", whole)
    put(tmp_path / "cut", cut)

    assert found(tmp_path / "whole") == []
    assert ("run", "run grown-control") in found(tmp_path / "cut")


def test_objects_that_events_name_are_looked_for(tmp_path, run):
    """Those of pruned checkpoints may go, those that an object names may not."""
    store = ObjectStore(tmp_path / "objects")
    tensors, pruned = store.put(b"tensors"), store.put(b"pruned")
    kept = store.put(b'{"tensors_ref": "%s"}' % tensors.encode())
    for ref in (kept, pruned):
        run.publish(run.trainers[0], pb.CheckpointSaved(ref=ref))
    run.publish(run.trainers[0], pb.CheckpointPruned(ref=pruned))
    put(tmp_path / "archive", LogOfRecords().place(run.events))
    store.delete(pruned)
    beside = Beside(objects=store)

    assert found(tmp_path / "archive", beside) == []
    store.delete(tensors)
    assert found(tmp_path / "archive", beside) == [("object", "run run")]
    store.put(b"tensors")
    (path,) = (store.root / kept[7:9]).iterdir()
    path.write_bytes(b"{}")
    assert found(tmp_path / "archive", beside) == [("object", "run run")]
    assert [kind for kind, _ in found(tmp_path / "archive", Beside(objects=ObjectStore(tmp_path / "nowhere")))] == [
        "note"
    ]


def test_objects_at_an_address_are_looked_for_and_exported_from_there(tmp_path, run):
    """A machine that did not train the run has none of its objects here."""
    address, archive = tmp_path / "mounted", tmp_path / "archive"
    elsewhere = Folder.at(str(address))
    reference = SharedObjects(tmp_path / "trained" / "objects", elsewhere, 10**9).put(b"tensors")
    run.publish(run.trainers[0], pb.CheckpointSaved(ref=reference))
    put(archive, LogOfRecords().place(run.events))

    def shared(name: str) -> SharedObjects:
        return SharedObjects(tmp_path / name / "objects", elsewhere, 10**9)

    assert found(archive, Beside(objects=ObjectStore(tmp_path / "nowhere"))) != []  # a note: none are here
    assert found(archive, Beside(objects=shared("other"))) == []
    with open_history(archive) as history:
        exported = export(history, ["run"], tmp_path / "exported", shared("third"))
    assert (exported.objects, exported.missing) == (1, 0)
    elsewhere.remove(f"{reference[7:9]}/{reference[9:]}")
    assert found(archive, Beside(objects=shared("fourth"))) == [("object", "run run")]
    address.rename(tmp_path / "away")
    address.write_text("no folder")
    assert [kind for kind, _ in found(archive, Beside(objects=shared("fifth")))] == ["note"]
