"""Archives at an address: copied whole, incrementally, and read like any other."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from esper.errors import CorruptState, InvalidInput
from projections import manifest, open_history, repair
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.compaction import merge_all
from projections.transfer import KEEP_REPLACED_S, Mirror, damaged_at, manifest_at, transfer
from projections.wholeness import examine

COUNT = "SELECT count(*) FROM log.every"


@pytest.fixture
def memory() -> str:
    """An address of a store in memory, its own for every test."""
    return f"memory://{secrets.token_hex(6)}/archive"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def archive(tmp_path, any_record) -> Path:
    """An archive of six decisions in three flushes."""
    folder = tmp_path / "archive"
    with Archive(folder) as owned:
        for flush in range(3):
            owned.append([any_record("decision_made", 2 * flush + i) for i in range(2)])
    return folder


def copy(source, target, now_s: float = 0.0):
    return transfer(Folder.at(source), Folder.at(target), now_s)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_copy_is_an_archive(where, archive, memory, tmp_path):
    target = memory if where == "memory" else tmp_path / "copies" / "one"

    done = copy(archive, target)

    assert (done.copied, done.kept, done.damage) == (3, 0, ())
    assert manifest_at(Folder.at(target)) == manifest.load(archive)
    with open_history(target) as there, open_history(archive) as here:
        assert there.execute(COUNT).fetchone() == (6,)
        whole = "SELECT * EXCLUDE log_headers FROM log.decision_made ORDER BY log_offset"
        assert there.execute(whole).fetchall() == here.execute(whole).fetchall()
        assert examine(there, Folder.at(target)) == []
    again = copy(archive, target)
    assert (again.copied, again.kept, again.size) == (0, 3, 0)


def test_only_what_is_new_is_copied_and_replaced_files_stay_a_while(archive, memory, any_record):
    """After a merge the old files stay for whoever reads by the manifest before."""
    copy(archive, memory)
    with Archive(archive) as owned:
        owned.append([any_record("decision_made", 6)])
        assert merge_all(owned, 2, lambda: 0.0) == set()

    done = copy(archive, memory, now_s=100.0)

    assert (done.copied, done.removed) == (1, 0)
    there = Folder.at(memory)
    assert len(there.sizes("files")) == 4
    assert copy(archive, memory, now_s=100.0 + KEEP_REPLACED_S - 1).removed == 0
    assert copy(archive, memory, now_s=100.0 + KEEP_REPLACED_S).removed == 3
    assert set(there.sizes("files")) == {entry.name for entry in manifest.load(archive).files}


def test_the_manifest_comes_last(archive, memory, monkeypatch):
    """Killed in between, the copy is what it was; the next attempt takes up what was copied."""
    copy(archive, memory)
    before = Folder.at(memory).read("manifest.json")
    target = f"{memory}-2"
    written = []
    writing = Folder.writing

    @contextlib.contextmanager
    def dies(folder: Folder, name: str):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        with writing(folder, name) as file:
            yield file

    monkeypatch.setattr("projections.transfer.AT_ONCE", 1)
    monkeypatch.setattr(Folder, "writing", dies)
    with pytest.raises(KeyboardInterrupt):
        copy(archive, target)
    monkeypatch.undo()

    assert all(name.startswith("files/") for name in written)
    assert manifest_at(Folder.at(target)) == manifest.Manifest()
    assert copy(archive, target).kept == 2
    assert Folder.at(target).read("manifest.json") == before


def test_a_damaged_file_is_named_and_not_copied(archive, memory):
    """At the source; and at an address, where the reader names it and the rest stays readable."""
    bad = archive / "files" / manifest.load(archive).files[1].name
    sound = bad.read_bytes()
    bad.write_bytes(sound[:-1] + b"x")

    done = copy(archive, memory)

    assert [(each.name, each.problem) for each in done.damage] == [(bad.name, "its bytes do not match their checksum")]
    assert bad.name not in Folder.at(memory).sizes("files")
    with open_history(memory) as history:
        assert [each.path for each in history.damage] == [f"{memory}/files/{bad.name}"]
        assert history.execute(COUNT).fetchone() == (4,)
        kinds = [each.kind for each in examine(history, Folder.at(memory))]
        assert kinds == ["file", "records"]
    bad.write_bytes(sound)
    assert copy(archive, memory).copied == 1
    with open_history(memory) as history:
        assert history.execute(COUNT).fetchone() == (6,)


def test_verifying_reads_the_address_and_not_what_was_copied_before(archive, memory):
    copy(archive, memory)
    with open_history(memory) as history:
        assert history.damage == []
    name = manifest.load(archive).files[0].name
    Folder.at(memory).write(f"files/{name}", b"PAR1")

    with open_history(memory) as history:
        found = examine(history, Folder.at(memory))

    assert (found[0].kind, found[0].where) == ("file", f"{memory}/files/{name}")


def test_a_reader_sees_what_was_copied_since(archive, memory, any_record):
    copy(archive, memory)
    with open_history(memory) as history:
        assert history.execute(COUNT).fetchone() == (6,)
        with Archive(archive) as owned:
            owned.append([any_record("decision_made", 6)])
        copy(archive, memory)
        assert history.execute(COUNT).fetchone() == (7,)
        assert not history.refresh()


def test_another_archive_is_not_overwritten(archive, memory, tmp_path, any_record):
    other = tmp_path / "other"
    with Archive(other) as owned:
        owned.append([any_record("decision_made", 0)])
    copy(other, memory)

    with pytest.raises(InvalidInput, match="holds another archive"):
        copy(archive, memory)
    with open_history(memory) as history:
        assert history.execute(COUNT).fetchone() == (1,)


def test_a_copy_that_is_ahead_is_not_overwritten(archive, memory):
    older = manifest.load(archive)
    copy(archive, memory)
    Folder.at(memory).write("manifest.json", manifest.as_bytes(replace(older, generation=99)))

    with pytest.raises(InvalidInput, match=r"is ahead of the archive.*generation 99, not 3"):
        copy(archive, memory)


@pytest.mark.parametrize(
    ("address", "problem"),
    [("nowhere://x/y", "nowhere"), ("memory://nothing-here", "holds no archive: there is no manifest.json")],
)
def test_an_address_without_an_archive_is_one_line(address, problem):
    with pytest.raises(InvalidInput, match=problem) as caught, open_history(address):
        pass
    assert "\n" not in str(caught.value)


def test_what_a_store_raises_is_one_line_with_its_address(archive, memory, monkeypatch):
    """Libraries behind fsspec have exceptions of their own."""
    copy(archive, memory)

    def refuse(*_arguments, **_options):
        raise RuntimeError("the bucket\nis not yours")

    monkeypatch.setattr(fsspec.filesystem("memory"), "cat_file", refuse, raising=False)
    with (
        pytest.raises(InvalidInput, match=r"cannot be read: memory://.*RuntimeError: the bucket is not yours"),
        open_history(memory),
    ):
        pass


def test_a_store_that_dies_in_the_middle_is_one_error_and_no_damage(archive, memory, monkeypatch):
    """Its files are not damaged because it is away, and not each of them is waited for."""
    copy(archive, memory)
    store, asked = fsspec.filesystem("memory"), []
    answer = store.cat_file

    def dies(path, **options):
        asked.append(path)
        if "/files/" in path:
            raise RuntimeError("connection lost")
        return answer(path, **options)

    monkeypatch.setattr(store, "cat_file", dies, raising=False)
    monkeypatch.setattr("projections.transfer.AT_ONCE", 1)
    with pytest.raises(InvalidInput, match=r"cannot be read: memory://.*RuntimeError: connection lost"):
        open_history(memory)
    assert len([path for path in asked if "/files/" in path]) == 1
    with pytest.raises(OSError, match="connection lost"):
        damaged_at(Folder.at(memory), manifest.load(archive).files, lambda _size: None)
    monkeypatch.undo()
    Folder.at(memory).remove(f"files/{manifest.load(archive).files[0].name}")

    with open_history(memory) as history:  # and a file that has gone is damage, as before
        assert [each.name for each in history.damage] == [manifest.load(archive).files[0].name]
        assert history.execute(COUNT).fetchone() == (4,)


def test_a_local_file_address_is_a_folder(archive, tmp_path):
    """No copy is made of what lies here already."""
    with open_history(f"file://{archive}") as history:
        assert history.archive == archive
        assert history.execute(COUNT).fetchone() == (6,)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_copy_is_mended(archive, tmp_path):
    """Of the right size: it passed for copied, and the next copy left it as it was."""
    target = tmp_path / "copy"
    copy(archive, target)
    bad = next((target / "files").iterdir())
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    done = copy(archive, target)

    assert (done.copied, done.kept) == (1, 2)
    assert bad.read_bytes() == whole


def test_many_readers_of_an_address_at_once(archive, memory):
    """They share one copy on this machine, and one temporary name was all that they had."""
    copy(archive, memory)

    with ThreadPoolExecutor(max_workers=32) as pool:
        mirrors = [Mirror(memory, lambda: 0.0) for _ in range(32)]
        assert [list(found) for found in pool.map(Mirror.refresh, mirrors)] == [[]] * 32

    assert manifest.load(mirrors[0].folder) == manifest.load(archive)
    assert len(list((mirrors[0].folder / "files").iterdir())) == 3


def test_a_copy_of_an_archive_that_lost_records_is_refused(archive, tmp_path, any_record):
    """The manifest was put back and went on by itself: its generation is higher, and it holds less."""
    target = tmp_path / "copy"
    before = manifest.load(archive)
    copy(archive, target)
    less = replace(before, generation=before.generation + 5, files=before.files[:2])
    manifest.save(archive, replace(less, next_offsets={("esper.commands", 0): 4}))

    with pytest.raises(InvalidInput, match=r"up to offset 6 and the archive that is to be copied there up to 4"):
        copy(archive, target)


def test_what_no_manifest_listed_stays_in_a_copy(archive, tmp_path):
    target = tmp_path / "copy"
    copy(archive, target)
    (target / "files" / "thesis.odt").write_bytes(b"mine")
    for now_s in (0.0, 1e9, 2e9):
        copy(archive, target, now_s)

    assert (target / "files" / "thesis.odt").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["../../victim", "/etc/victim", ".bashrc", "files/../../victim"])
@pytest.mark.parametrize("way", ["files", "retired"])
def test_a_hostile_manifest_writes_and_removes_nothing(name, way, archive, memory, tmp_path, monkeypatch):
    """`esper sql --archive` of a stranger's address wrote `~/.bashrc`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    copy(archive, memory)
    there = json.loads(Folder.at(memory).read("manifest.json"))
    if way == "files":
        there["files"][0]["name"] = name
    else:
        there["retired"][name] = 0
    fsspec.filesystem("memory").pipe_file(f"{Folder.at(memory).root}/manifest.json", json.dumps(there).encode())
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}

    for read in (lambda: open_history(memory), lambda: copy(memory, tmp_path / "copy")):
        with pytest.raises(CorruptState, match="is not a name"):
            read()
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    with pytest.raises(InvalidInput, match="is not a name"):
        Folder.at(tmp_path / "copy").write(f"files/{name}", b"x")


def test_a_linked_folder_of_a_copy_is_refused(archive, tmp_path):
    target, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    (target / "files").symlink_to(elsewhere)

    with pytest.raises(CorruptState, match="is a link or no folder"):
        copy(archive, target)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("way", ["to memory", "from memory", "from http", "repaired", "verified", "to a folder"])
def test_a_file_on_its_way_is_in_memory_by_pieces(way, archive, memory, tmp_path, monkeypatch):
    """One was held whole, up to 512 MiB of it; an HTTP server of Python knows no ranges and gives it all."""
    largest, entry = 3_000, manifest.load(archive).files[0]
    monkeypatch.setattr("projections.addresses.PIECE_BYTES", largest)
    name = f"files/{entry.name}"
    whole = (archive / name).read_bytes()
    assert len(whole) > 2 * largest
    taken, digest = [], hashlib.sha256

    class Digest:
        def __init__(self):
            self.all = digest()

        def update(self, piece):
            taken.append(len(piece))
            self.all.update(piece)

        def hexdigest(self):
            return self.all.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Digest)
    there = Folder.at(memory)
    if way == "to memory":
        copy(archive, memory)
        assert there.read(name) == whole
    elif way == "verified":
        copy(archive, tmp_path / "other")
        assert damaged_at(Folder.at(tmp_path / "other"), [entry], lambda _size: None) == []
    elif way == "repaired":
        copy(archive, memory)
        (archive / name).write_bytes(b"")
        assert repair.from_copy(archive, entry, there) is not None
        assert (archive / name).read_bytes() == whole
    else:
        with serving(archive) as address:
            copy(archive, memory)
            source = {"to a folder": archive, "from memory": memory, "from http": address}[way]
            copy(source, tmp_path / "other")
        assert (tmp_path / "other" / name).read_bytes() == whole
    assert max(taken) <= largest + 1
    assert sum(taken) >= len(whole)


@contextlib.contextmanager
def serving(folder):
    """An HTTP server over a folder, which knows no ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("size", [0, 1, 5_999, 6_000, 6_001, 12_000])
def test_pieces_are_the_whole_whatever_the_size(size, memory, monkeypatch):
    """A store of objects has an error for a range that begins at a file's end."""
    store = fsspec.filesystem("memory")
    answer = store.cat_file

    def strict(path, start, end):
        if start and start >= store.size(path):
            raise RuntimeError("InvalidRange")
        return answer(path, start=start, end=end)

    monkeypatch.setattr(store, "cat_file", strict, raising=False)
    monkeypatch.setattr("projections.addresses.PIECE_BYTES", 3_000)
    folder, content = Folder.at(memory), bytes(range(250)) * 60
    folder.write("some", content[:size])

    assert folder.read("some", size) == content[:size]
    assert folder.read("some", 20_000) == content[:size]
    if size:
        with pytest.raises(OSError, match="more than"):
            folder.read("some", size - 1)


def half_written(folder):
    with folder.writing("files/one") as file:
        file.write(b"half")
        raise OSError("broken off")


def test_a_copy_that_breaks_off_leaves_what_was_there(archive, tmp_path, memory):
    target = Folder.at(tmp_path / "other")
    target.write("files/one", b"before")
    for where in (target, Folder.at(memory)):
        with pytest.raises(OSError, match="broken off"):
            half_written(where)

    assert target.read("files/one") == b"before"
    assert [each.name for each in (tmp_path / "other" / "files").iterdir()] == ["one"]
    assert Folder.at(memory).sizes("files") == {}
