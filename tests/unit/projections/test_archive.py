"""The archive's writer: every record once, the position with the rows, and nothing but what the manifest lists."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.topics import PARTITIONS
from esper.errors import CorruptState, InvalidInput
from projections import manifest, open_history
from projections.archive_writer import KEEP_REPLACED_S, Archive
from projections.lineage import facts, stored_records
from projections.manifest import Gap, covered


def rows(archive: Path) -> list[tuple[int, int]]:
    with open_history(archive) as history:
        query = "SELECT log_partition, log_offset FROM log.every ORDER BY ALL"
        return history.connection.execute(query).fetchall()


def test_rows_and_position_are_committed_together(tmp_path: Path, any_record):
    records = [any_record("run_resumed", offset) for offset in range(5)]
    with Archive(tmp_path) as archive:
        done = archive.append(records)

    assert (done.rows, done.invalid, done.files) == (5, 0, 1)
    assert covered(tmp_path) == {("esper.runs", 0): 5}
    assert rows(tmp_path) == [(0, offset) for offset in range(5)]


def test_a_repeated_fetch_adds_nothing(tmp_path: Path, any_record):
    """Exactly once: what is archived is left out, also by the next owner, and what is new is taken."""
    records = [any_record("run_resumed", offset) for offset in range(8)]
    with Archive(tmp_path) as archive:
        archive.append(records[:5])
        assert archive.append(records[:5]).rows == 0
    with Archive(tmp_path) as archive:
        assert archive.append(records).rows == 3

    assert rows(tmp_path) == [(0, offset) for offset in range(8)]


def test_partitions_are_counted_apart(tmp_path: Path, any_record):
    records = [replace(any_record("run_resumed", offset), partition=part) for part in (1, 0) for offset in range(3)]
    with Archive(tmp_path) as archive:
        archive.append(records)

    assert covered(tmp_path) == {("esper.runs", 0): 3, ("esper.runs", 1): 3}
    assert len(rows(tmp_path)) == 6


def test_offsets_that_were_left_out_are_named(tmp_path: Path, any_record):
    """The log may have deleted or never given out some: the archive says which, from the first one on."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", offset) for offset in (3, 4, 9)])
        gaps = archive.manifest.gaps

    assert gaps == (Gap("esper.runs", 0, 0, 3), Gap("esper.runs", 0, 5, 9))
    assert manifest.load(tmp_path).gaps == gaps


def test_what_the_log_has_no_more_is_noted_before_a_record_comes(tmp_path: Path, any_record):
    """Where nothing lies between, the archive never came to the log's end, and a resume waited for it in vain."""
    runs, commands = ("esper.runs", 0), ("esper.commands", 0)
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", 0)])

        assert archive.note_gone({runs: 5, commands: 2}) == 6
        assert archive.note_gone({runs: 5, commands: 2}) == 0
        assert archive.manifest.gaps == (Gap(*runs, 1, 5), Gap(*commands, 0, 2))
        assert archive.append([any_record("run_resumed", offset) for offset in range(6)]).lost == 0

    assert covered(tmp_path) == {runs: 6, commands: 2}
    assert rows(tmp_path) == [(0, 0), (0, 5)]


def test_one_owner_at_a_time(tmp_path: Path):
    with Archive(tmp_path), pytest.raises(InvalidInput, match="another archiver writes"):
        Archive(tmp_path)
    Archive(tmp_path).close()


def test_a_kill_between_files_and_manifest_changes_nothing(tmp_path: Path, any_record, monkeypatch):
    """The files are there, the manifest is the old one: readers see the old state, the next owner does it again."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", 0)])
        monkeypatch.setattr(manifest, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            archive.append([any_record("run_resumed", 1)])
    monkeypatch.undo()

    assert rows(tmp_path) == [(0, 0)]
    with Archive(tmp_path) as archive:
        assert archive.set_aside == 1
        archive.append([any_record("run_resumed", 1)])
        assert archive.drop_set_aside() == 1
    assert rows(tmp_path) == [(0, 0), (0, 1)]


def test_the_disk_has_the_files_and_their_names_before_the_manifest_lists_them(tmp_path: Path, any_record, monkeypatch):
    """After a power cut a manifest must not list what the disk never got: what reaches it, and in which order."""
    synced = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path).as_posix())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", 0), any_record("rolled_back", 1)])
    files = sorted(entry.name for entry in archive.manifest.files)

    written = [name for name in synced if ".new-" in name]
    assert [name.split(".new-")[0] for name in synced] == ["files/", "files/", "files", "", "."]
    assert (len(files), len(written)) == (2, 3)


def test_replaced_files_stay_for_ten_minutes(tmp_path: Path, any_record):
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", 0)])
        (old,) = archive.manifest.files
        path = tmp_path / "files" / old.name
        merged = replace(old, name="merged.parquet", level=1)
        (tmp_path / "files" / merged.name).write_bytes(path.read_bytes())

        assert archive.swap(frozenset({old.name}), merged, now_s=1_000.0)
        assert archive.delete_retired(1_000.0 + KEEP_REPLACED_S - 1) == 0
        assert path.exists()
    with Archive(tmp_path) as archive:  # the next owner keeps them as long
        assert archive.set_aside == 0
        assert path.exists()
        assert archive.delete_retired(1_000.0 + KEEP_REPLACED_S) == 1

        assert not path.exists()
        assert [entry.name for entry in archive.manifest.files] == ["merged.parquet"]
        assert not archive.manifest.retired


def test_a_swap_that_does_not_fit_is_refused(tmp_path: Path, any_record):
    """A merge that lost rows, or of files that are no longer listed, never takes effect, and its file goes."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", offset) for offset in range(3)])
        before = archive.manifest
        (old,) = before.files
        for wrong, names in (
            (replace(old, name="a.parquet", rows=2), {old.name}),
            (replace(old, name="b.parquet"), {"c"}),
        ):
            (tmp_path / "files" / wrong.name).write_bytes(b"")

            assert not archive.swap(frozenset(names), wrong, now_s=0.0)
            assert not (tmp_path / "files" / wrong.name).exists()
        assert archive.manifest is before


def test_the_log_comes_back_byte_for_byte(tmp_path: Path, any_record):
    """Keys, values, headers and times, valid or not, in the order of the log."""
    records = [
        replace(any_record(body, offset), partition=offset % PARTITIONS, headers=headers)
        for offset, (body, headers) in enumerate(
            [
                ("run_started", (("esper-key", b"k"), ("esper-signature", bytes(32)))),
                ("run_resumed", ()),
                ("telemetry_packet", (("a", b""), ("a", None), ("é", b"\x00"))),
                ("adaptation_command", (("esper-signature", b"short"),)),
            ]
        )
    ]
    odd = replace(records[0], offset=9, value=None, key=None)
    with Archive(tmp_path) as archive:
        archive.append([*records, odd])

    with open_history(tmp_path) as history:
        restored = list(stored_records(history))

    assert sorted([*records, odd], key=lambda one: (one.topic, one.partition, one.offset)) == restored


def test_facts_come_back_in_order(opened):
    run = opened.execute("SELECT min(run_id) FROM runs").fetchone()[0]

    sequences = [event.sequence for event in facts(opened, run)]

    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) > 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 0}', b'{"format": 1}', b"x" * 9_000 + b"\xff"])
def test_a_manifest_that_cannot_be_read_is_named(content, tmp_path: Path):
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(CorruptState, match=r"manifest\.json cannot be read") as caught:
        manifest.load(tmp_path)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_manifest_survives_the_disk(tmp_path: Path, any_record):
    """What is saved is what is loaded, and it is plain JSON."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("run_resumed", 2)])
        kept = archive.manifest

    assert manifest.load(tmp_path) == kept
    assert json.loads((tmp_path / "manifest.json").read_bytes())["generation"] == 1
