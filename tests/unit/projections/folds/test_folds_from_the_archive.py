"""A projection is made anew out of the archive alone, and what the archive gets later is followed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import duckdb
import pytest

from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing
from projections import open_history, store
from projections.archive_writer import Archive
from projections.registry import PROJECTIONS, file_of, follow, follow_what_the_log_lost, rebuild, seen
from projections.store import Locked, Store
from tests.unit.projections.keep_log import content

BLOCK = 256 * 1024
"""DuckDB's, each with a checksum."""


def test_the_archive_alone_gives_the_same_tables(projection, records, expected, tmp_path):
    """With nothing running; and going on from there with the live log changes nothing."""
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)
    seen_of = []
    with open_history(tmp_path / "archive") as history:
        taken = rebuild(projection, tmp_path, history, lambda done, total: seen_of.append((done, total)))
        assert seen(projection, tmp_path).state == "ready"
    with Store(projection, file_of(tmp_path, projection), None) as store:
        assert content(store) == expected[projection.name]
        assert store.take(records).folded == 0

    assert taken.folded > 0
    assert seen_of[-1][0] == seen_of[-1][1] >= taken.folded


def test_what_the_archive_gets_later_is_followed(records, expected, tmp_path):
    projection = PROJECTIONS["experience"]
    with Archive(tmp_path / "archive") as archive, Store(projection, None, None) as store:
        for start in range(0, len(records), 20):
            archive.append(records[start : start + 20])
            with open_history(tmp_path / "archive") as history:
                follow(store, history, lambda _done, _total: None)
        assert content(store) == expected["experience"]


@pytest.mark.parametrize("ring", [None, KeyRing((bytes(range(32)),))], ids=["trusting the archive", "verifying"])
def test_what_the_log_lost_comes_from_the_archive(projection, records, expected, tmp_path, ring):
    """A projection that was put back from an older copy, or deleted, began where the log begins, and said nothing.

    One that verifies, as the worker's do, took the archive's records without their headers and refused every one.
    """
    if ring is not None:
        records = [replace(record, headers=signed(ring, record.value)) for record in records]
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)
        begins = {place: end - 1 for place, end in archive.manifest.next_offsets.items()}
    with Store(projection, None, ring) as store:
        store.take(records[: len(records) // 3])
        follow_what_the_log_lost(store, tmp_path / "archive", begins)
        store.take([record for record in records if record.offset >= begins[record.topic, record.partition]])

        assert content(store) == expected[projection.name]
        assert follow_what_the_log_lost(store, tmp_path / "nowhere", begins).folded == 0


def test_where_the_archive_is_damaged_too_the_rest_is_there_and_the_file_is_made_anew_later(
    projection, records, expected, tmp_path
):
    """It was left without anything that the log had lost, for ever: its offsets had passed."""
    ring = KeyRing((bytes(range(32)),))
    records = [replace(record, headers=signed(ring, record.value)) for record in records]
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)
        begins = dict(archive.manifest.next_offsets)
    body = next(body for body in projection.bodies if archive.manifest.of(body))
    path = tmp_path / "archive" / "files" / archive.manifest.of(body)[0].name
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with Store(projection, tmp_path / "made.duckdb", ring) as store:
        assert follow_what_the_log_lost(store, tmp_path / "archive", begins).folded > 0
        assert content(store) != expected[projection.name]

    path.write_bytes(whole)
    with Store(projection, tmp_path / "made.duckdb", ring) as store:
        follow_what_the_log_lost(store, tmp_path / "archive", begins)
        assert content(store) == expected[projection.name]


def test_a_damaged_file_is_made_anew_wherever_the_damage_lies(projection, records, expected, tmp_path):
    """It ended its process at the first write that came to the damage, and again after each start."""
    ring = KeyRing((bytes(range(32)),))
    records = [replace(record, headers=signed(ring, record.value)) for record in records]
    path = tmp_path / "made.duckdb"
    with Store(projection, path, ring) as store:
        store.take(records[: len(records) // 2])
    sound, failures = path.read_bytes(), 0
    for start in range(0, len(sound), BLOCK):
        with path.open("r+b") as file:  # in place: another file would not be trusted anyhow
            file.write(sound[:start] + bytes(each ^ 0xFF for each in sound[start : start + 64]) + sound[start + 64 :])
        for _ in range(3):
            try:
                with Store(projection, path, ring) as store:
                    store.take(records)
                    found = content(store)
            except duckdb.Error:
                failures += 1
            else:
                break
        assert found == expected[projection.name], start
    assert failures < 2 * len(sound) / BLOCK


def test_a_damaged_block_is_not_taken_for_a_file_that_another_process_keeps(tmp_path, monkeypatch):
    """DuckDB says "in block at location", in which somebody found "lock"."""

    def damaged(*_arguments, **_named):
        raise duckdb.IOException("Corrupt database file: computed checksum 1 does not match 2 in block at location 3")

    monkeypatch.setattr(store.duckdb, "connect", damaged)
    with pytest.raises(duckdb.IOException, match="in block"):
        store.connected(tmp_path / "x.duckdb")


def signed(ring, value):
    """The headers that sign a record."""
    made = ring.sign(value)
    return ((HEADER_KEY_ID, made.key_id.encode()), (HEADER_SIGNATURE, made.signature))


def test_an_interrupted_rebuild_leaves_the_old_file(records, tmp_path, expected):
    projection = PROJECTIONS["urza"]
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)

    def stop(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with open_history(tmp_path / "archive") as history:
        rebuild(projection, tmp_path, history)
        with pytest.raises(KeyboardInterrupt):
            rebuild(projection, tmp_path, history, stop)
        with Store(projection, file_of(tmp_path, projection), None) as store:
            assert content(store) == expected["urza"]
        rebuild(projection, tmp_path, history)

    assert [path.name for path in (tmp_path / "projections").iterdir()] == ["urza.duckdb"]


def test_a_file_that_a_process_keeps_is_left_to_it(tmp_path):
    """DuckDB lets a process open its own file twice, so the keeper is another process."""
    projection = PROJECTIONS["urza"]
    path = file_of(tmp_path, projection)
    (tmp_path / "archive").mkdir()
    path.parent.mkdir()
    program = f"import duckdb; c = duckdb.connect({str(path)!r}); print('ready', flush=True); input()"
    keeper = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout.readline() == "ready\n"
        with open_history(tmp_path / "archive") as history, pytest.raises(Locked, match="kept by a running process"):
            rebuild(projection, tmp_path, history)
        assert seen(projection, tmp_path).state == "kept"
    finally:
        keeper.communicate("\n", timeout=30)
