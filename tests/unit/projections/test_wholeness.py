"""Everything that can be wrong with an archive is named, and the rest stays readable."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2
from projections import manifest, open_history
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers
from projections.verify import Finding
from projections.wholeness import Coverage, coverage, examine, survey


def findings(archive: Path) -> list[tuple[str, str, str]]:
    with open_history(archive) as history:
        return [(each.kind, each.where, each.what) for each in examine(history)]


def put(archive: Path, *flushes) -> manifest.Manifest:
    with Archive(archive) as owned:
        for flush in flushes:
            owned.append(flush)
        return owned.manifest


def test_a_whole_archive_has_no_findings(small_history):
    assert findings(small_history) == []


def test_what_is_covered_is_known_without_reading(tmp_path, any_record):
    """From which offset to which, and what the log had lost on the way."""
    kept = put(tmp_path, [any_record("run_resumed", offset) for offset in (3, 4, 9)], [any_record("decision_made", 0)])

    assert coverage(kept) == [Coverage("esper.commands", 0, 0, 1, 0), Coverage("esper.runs", 0, 3, 10, 4)]
    assert [each.records for each in coverage(kept)] == [1, 3]


def test_what_the_log_had_lost_is_named_and_nothing_else(tmp_path, any_record):
    """Offsets that were never archived are no hole of the archive's own."""
    put(tmp_path, [any_record("decision_made", offset) for offset in (3, 4, 9)])

    found = findings(tmp_path)

    assert [(kind, where) for kind, where, _ in found] == [
        ("lost", "esper.commands/0 offsets 0 to 2"),
        ("lost", "esper.commands/0 offsets 5 to 8"),
    ]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (Path.unlink, "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "its bytes do not match their checksum"),
    ],
)
def test_a_missing_or_damaged_file_and_its_offsets_are_named(harm, problem, tmp_path, any_record):
    kept = put(tmp_path, *([any_record("decision_made", 2 * flush + i) for i in range(2)] for flush in range(3)))
    bad = tmp_path / "files" / kept.files[1].name
    harm(bad)

    assert findings(tmp_path) == [
        ("file", str(bad), f"{problem}; its 2 rows of decision_made are left out"),
        (
            "records",
            "esper.commands/0 offsets 2 to 3",
            "2 of these were archived and are in no file that can be read",
        ),
    ]
    with open_history(tmp_path) as history:
        assert history.execute("SELECT log_offset FROM decisions ORDER BY ALL").fetchall() == [(0,), (1,), (4,), (5,)]


def test_a_missing_file_is_seen_without_reading(tmp_path, any_record):
    kept = put(tmp_path, [any_record("decision_made", 0)], [any_record("decision_made", 1)])
    first, second = (tmp_path / "files" / entry.name for entry in kept.files)
    first.unlink()
    second.write_bytes(b"PAR1")

    found = survey(Folder.at(tmp_path), kept)

    assert [(each.kind, each.where, each.serious) for each in found] == [
        ("file", str(first), True),
        ("file", str(second), True),
    ]
    assert found[0].what.startswith("is missing")
    assert found[1].what.startswith("has 4 bytes instead of")


def test_a_file_that_left_the_list_is_missed(tmp_path, any_record):
    """The manifest says how far the archive has come; so a file that it lost is found by the offsets."""
    kept = put(tmp_path, *([any_record("decision_made", offset)] for offset in range(4)))
    manifest.save(tmp_path, replace(kept, files=(kept.files[0], *kept.files[2:]), generation=9))

    found = findings(tmp_path)

    unlisted = str(tmp_path / "files" / kept.files[1].name)
    assert [each[:2] for each in found] == [("records", "esper.commands/0 offset 1"), ("unlisted", unlisted)]
    with Archive(tmp_path) as archive:  # whose owner takes the rows back
        assert archive.drop_set_aside() == 1
    assert findings(tmp_path) == []


def test_offsets_that_are_held_twice_are_named(tmp_path, any_record):
    kept = put(tmp_path, [any_record("decision_made", 0), any_record("decision_made", 1)])
    manifest.save(tmp_path, replace(kept, files=(*kept.files, *kept.files), generation=9))

    assert findings(tmp_path) == [("repeated", "esper.commands/0", "2 records are held twice")]


def test_a_gap_in_a_runs_sequence_is_named(tmp_path):
    """By the run and the place; another run beside it is whole."""
    broken, sound = Trainers("broken"), Trainers("sound")
    for run in (broken, sound):
        run.train(0)
        if run is broken:
            run.lose(0)
        run.train(0)
    log = LogOfRecords()
    put(tmp_path, log.place(broken.events), log.place(sound.events))

    assert findings(tmp_path) == [("run", "run broken", "facts are missing before sequence 4")]


def test_events_of_a_newer_esper_are_named_and_kept(tmp_path, any_record):
    """A higher schema version, and a body with a tag that is not known here; beside them one that is understood."""
    known = any_record("decision_made", 0)
    event = event_pb2.Event.FromString(known.value)
    event.schema_version = 2
    higher = replace(known, offset=1, value=event.SerializeToString())
    event.schema_version = 1
    event.ClearField("decision_made")
    unknown_tag = b"\xa2\x3f\x02\x08\x01"  # field 1012, two bytes
    newer = replace(known, offset=2, value=event.SerializeToString() + unknown_tag)
    put(tmp_path, [known, higher, newer])

    assert findings(tmp_path) == [
        (
            "newer",
            "1 record at esper.commands/0@2",
            "no body that this Esper knows; kept as it came in log.invalid",
        ),
        (
            "newer",
            "1 record at esper.commands/0@1",
            "schema version 2; this Esper reads 1; kept as it came in log.invalid",
        ),
    ]
    with open_history(tmp_path) as history:
        assert history.execute("SELECT count(*) FROM decisions").fetchone() == (1,)
        raw = history.execute("SELECT log_raw FROM log.invalid ORDER BY log_offset").fetchall()
        assert raw == [(higher.value,), (newer.value,)]


def test_a_table_of_a_newer_esper_is_named(tmp_path, any_record, caplog):
    kept = put(tmp_path, [any_record("decision_made", 0)])
    (entry,) = kept.files
    put_there = replace(entry, table="seed_transplanted")
    manifest.save(tmp_path, replace(kept, files=(put_there,), generation=9))

    (found,) = findings(tmp_path)

    assert found[:2] == ("newer", "seed_transplanted")
    assert "1 events of a type that this Esper does not know" in found[2]
    with caplog.at_level(logging.WARNING), open_history(tmp_path) as history:
        assert history.unknown == {"seed_transplanted": 1}
    assert "1 events of type seed_transplanted" in caplog.text


def test_what_is_not_serious_is_whole():
    assert not Finding("newer", "x", "y").serious
    assert Finding("file", "x", "y").serious
