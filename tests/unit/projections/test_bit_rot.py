"""Bits that go bad under a file that was compared once: found before it is read, named, and repaired."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from esper.errors import CorruptState, InvalidInput
from projections import history as history_module
from projections import open_history, repair, verify
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.compaction import merge_all
from projections.generated import history, records
from projections.records import StoredRecord, batches_of
from projections.transfer import transfer

FLIPS = 60
QUESTIONS = (
    "SELECT count(*), sum(epoch), sum(probe_loss) FROM epochs",
    "SELECT status, count(*) FROM runs GROUP BY ALL ORDER BY ALL",
    "SELECT count(*), sum(hash(log_raw)) FROM log.every",
)


@pytest.fixture(scope="module")
def sent() -> list[StoredRecord]:
    return list(records(history(600, seed=3)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory, sent) -> Path:
    """An archive of merged files and of such as were flushed."""
    folder = tmp_path_factory.mktemp("kept")
    with Archive(folder) as archive:
        for start in range(0, 400, 50):
            archive.append(sent[start : start + 50])
        merge_all(archive, 2, time.time)
        archive.append(sent[400:])
    with open_history(folder) as opened:
        assert not opened.damage
    return folder


@pytest.fixture
def archive(kept, tmp_path) -> Path:
    shutil.copytree(kept, tmp_path / "archive")
    with open_history(tmp_path / "archive"):
        pass  # it was looked at
    return tmp_path / "archive"


def answers(opened) -> list:
    return [opened.execute(question).fetchall() for question in QUESTIONS]


def changed_unseen(path: Path, place: int, change: int = 1) -> None:
    """As a disk loses a bit: size, time and inode stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ change]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def hours_later(archive: Path) -> None:
    """The cache as it would be `LOOK_AGAIN_S` from now."""
    cache = json.loads((archive / verify.CACHE).read_bytes())
    aged = {name: [*each[:3], each[3] - int(verify.LOOK_AGAIN_S), *each[4:]] for name, each in cache.items()}
    (archive / verify.CACHE).write_text(json.dumps(aged))


def test_single_bits_that_flip_are_named_each_and_nothing_is_summed_wrong(archive):
    rng = random.Random(13)
    with open_history(archive) as opened:
        files = opened.manifest.files
    assert {entry.level for entry in files} == {0, 1}
    for flip in range(FLIPS):
        entry = rng.choice(files)
        place, bit = rng.randrange(entry.size), 1 << rng.randrange(8)
        changed_unseen(archive / "files" / entry.name, place, bit)
        hours_later(archive)
        if flip % 20:
            (found,) = verify.damaged(archive, files)
        else:
            with open_history(archive) as opened:
                (found,) = opened.damage
                opened.execute(QUESTIONS[0]).fetchall()  # without it, and without an error
        assert found.name == entry.name
        assert f"`esper archive repair {entry.name}`" in str(found)
        changed_unseen(archive / "files" / entry.name, place, bit)
        assert verify.damaged(archive, files) == []


def test_a_query_that_fails_over_a_file_names_it_and_answers_without_it_the_next_time(archive, sent):
    """Within the hours in which the cache is believed."""
    with open_history(archive) as opened:
        (entry, *_) = opened.manifest.of("epoch_completed")
        path = archive / "files" / entry.name
        for place in range(4, entry.size - 8):
            changed_unseen(path, place, 0xFF)
        with pytest.raises(CorruptState, match=f"`esper archive repair {entry.name}`"):
            answers(opened)
        assert opened.execute("SELECT count(*) FROM log.epoch_completed").fetchone()[0] < len(sent)
        with pytest.raises(Exception, match="no_such_view"):
            opened.execute("SELECT * FROM no_such_view")


def test_an_open_history_sees_a_file_that_changes_under_it(archive, monkeypatch):
    monkeypatch.setattr(history_module, "LOOK_S", 0.0)
    with open_history(archive) as opened:
        before = answers(opened)
        (entry, *_) = opened.manifest.of("epoch_completed")
        path = archive / "files" / entry.name
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + b"x")
        assert answers(opened) != before
        assert [each.name for each in opened.damage] == [entry.name]


def test_what_was_found_damaged_is_not_believed_to_be_sound(archive):
    with open_history(archive) as opened:
        entry = opened.manifest.files[0]
    changed_unseen(archive / "files" / entry.name, 100)

    assert verify.damaged(archive, [entry]) == []
    assert len(verify.damaged(archive, [entry], trust_cache=False)) == 1
    assert len(verify.damaged(archive, [entry])) == 1


@pytest.mark.parametrize("at_s", [-1, 2**40])
def test_a_cache_that_says_another_time_is_not_believed(archive, at_s):
    """As one that came with a folder of somebody else, or from before the clock was set."""
    with open_history(archive) as opened:
        entry = opened.manifest.files[0]
    changed_unseen(archive / "files" / entry.name, 100)
    cache = json.loads((archive / verify.CACHE).read_bytes())
    (archive / verify.CACHE).write_text(json.dumps({name: [*each[:3], at_s] for name, each in cache.items()}))

    assert [each.name for each in verify.damaged(archive, [entry])] == [entry.name]


def test_the_scrub_looks_at_some_files_a_turn_and_comes_round(archive, monkeypatch):
    with open_history(archive) as opened:
        files = opened.manifest.files
    monkeypatch.setattr(verify, "SCRUB_BYTES", max(entry.size for entry in files))
    now = time.time() + verify.SCRUB_AGE_S + 1
    changed_unseen(archive / "files" / files[-1].name, 100)

    assert verify.scrub(archive, files) == []  # all were looked at just now
    found, turns = [], 0
    while not found:
        found = verify.scrub(archive, files, lambda: now)
        turns += 1
        assert turns <= len(files)
    assert [each.name for each in found] == [files[-1].name]
    assert turns > 1
    cache = json.loads((archive / verify.CACHE).read_bytes())
    assert files[-1].name not in cache
    assert sum(each[3] == int(now) for each in cache.values()) > 0


def test_a_file_is_repaired_from_a_copy(archive, tmp_path):
    copy = Folder.at(tmp_path / "copy")
    transfer(Folder.at(archive), copy, time.time())
    with open_history(archive) as opened:
        before, entry = answers(opened), opened.manifest.of("epoch_completed")[0]
    path = archive / "files" / entry.name
    changed_unseen(path, 200)
    damage = path.read_bytes()

    aside = repair.from_copy(archive, repair.damaged_file(archive, entry.name), copy)

    assert aside is not None
    assert aside.read_bytes() == damage
    with open_history(archive) as opened:
        assert answers(opened) == before
        assert opened.damage == []
    with pytest.raises(InvalidInput, match="is sound"):
        repair.damaged_file(archive, entry.name)
    with pytest.raises(InvalidInput, match="lists no file"):
        repair.damaged_file(archive, "../manifest.json")


def test_a_damaged_copy_repairs_nothing(archive, tmp_path):
    copy = Folder.at(tmp_path / "copy")
    transfer(Folder.at(archive), copy, time.time())
    with open_history(archive) as opened:
        entry = opened.manifest.files[0]
    for folder in (archive, tmp_path / "copy"):
        changed_unseen(folder / "files" / entry.name, 200)
    before = (archive / "files" / entry.name).read_bytes()

    with pytest.raises(InvalidInput, match="damaged too"):
        repair.from_copy(archive, entry, copy)
    assert (archive / "files" / entry.name).read_bytes() == before


@pytest.mark.parametrize(
    ("table", "level"),
    [("epoch_completed", 0), ("epoch_completed", 1), ("run_started", 0), ("decision_made", 0), ("decision_made", 1)],
)
def test_a_file_is_made_again_from_the_log(archive, sent, table, level):
    """The log gives all that it holds, and other files' rows are left where they are; facts count as before."""
    with open_history(archive) as opened:
        before = answers(opened)
        entry = next(each for each in opened.manifest.of(table) if each.level == level)
    (archive / "files" / entry.name).unlink()
    with Archive(archive) as owned:
        aside = repair.from_records(owned, entry, batches_of(sent), None, time.time())

    assert aside is None
    with open_history(archive) as opened:
        assert opened.damage == []
        assert answers(opened) == before


def test_a_log_that_has_not_all_of_it_changes_nothing(archive, sent):
    with open_history(archive) as opened:
        entry = opened.manifest.of("epoch_completed")[0]
    changed_unseen(archive / "files" / entry.name, 200)
    before = (archive / "files" / entry.name).read_bytes()

    with Archive(archive) as owned, pytest.raises(CorruptState, match="the log holds 0 of the"):
        repair.from_records(owned, entry, [], None, time.time())
    assert (archive / "files" / entry.name).read_bytes() == before


def test_of_a_file_at_an_address_no_more_is_read_than_its_manifest_says(archive, tmp_path):
    """A store that gives more, or for ever, is named like any other damage."""
    with open_history(archive) as opened:
        entry = opened.manifest.files[0]
    with (archive / "files" / entry.name).open("ab") as file:
        file.truncate(2**33)  # eight gigabytes that take no room

    done = transfer(Folder.at(archive), Folder.at(tmp_path / "copy"), time.time())

    (damage,) = done.damage
    assert damage.name == entry.name
    assert f"more than the {entry.size} bytes" in damage.problem
