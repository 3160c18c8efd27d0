"""The object store gives back exactly what was put in, or says that it cannot."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "objects")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_what_is_put_in_comes_out(store, content):
    reference = store.put(content)

    assert store.get(reference) == content
    assert store.put(content) == reference
    assert reference in store


def test_it_leaves_no_temporary_file(store):
    store.put(b"x")

    assert [path.name[:1] for path in store.root.rglob("*") if path.is_file()] != ["."]
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


def test_the_name_of_a_new_folder_reaches_the_disk_beside_what_is_in_it(store, monkeypatch):
    """A step of a run waits for that: three syncs in a row took half as long again as two."""
    root_begun, synced, fsync = threading.Event(), [], os.fsync
    store.put(b"another")  # the root is there

    def seen(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path == store.root:
            root_begun.set()
        assert root_begun.wait(5), "the root is synced only after what is in it"
        fsync(descriptor)
        synced.append(path)

    monkeypatch.setattr(os, "fsync", seen)
    reference = store.put(b"x")

    (made,) = {path for path in synced if path.parent == store.root}
    assert store.root in synced, "it is on the disk when `put` returns"
    assert [path for path in synced if path != store.root][-1] == made, "a name comes after what it names"
    assert store.get(reference) == b"x"


def test_a_new_folder_that_does_not_reach_the_disk_is_an_error(store, monkeypatch):
    store.put(b"another")
    fsync = os.fsync

    def failing(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink() == store.root:
            raise OSError(errno.EIO, "a broken disk")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="a broken disk"):
        store.put(b"x")


def test_a_missing_object_is_named(store):
    reference = store.put(b"x")
    store.delete(reference)

    with pytest.raises(InvalidInput, match=reference):
        store.get(reference)
    assert reference not in store


def test_a_changed_object_is_refused(store):
    reference = store.put(b"x")
    (path,) = (path for path in store.root.rglob("*") if path.is_file())
    path.chmod(0o600)
    path.write_bytes(b"y")

    with pytest.raises(CorruptState, match="does not match its digest"):
        store.get(reference)


@pytest.mark.parametrize("reference", ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "g" * 64])
def test_what_is_no_reference_never_becomes_a_path(store, reference):
    with pytest.raises(InvalidInput, match="not a reference"):
        store.get(reference)


def test_deleting_says_how_many_bytes_it_freed(store):
    reference = store.put(b"12345")

    assert store.delete(reference) == 5
    assert store.delete(reference) == 0


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"y"), lambda path: path.write_bytes(b"")])
def test_putting_mends_a_damaged_object(store, compress, harm):
    """Its reference came back as if it were stored, and every later `get` failed."""
    reference = store.put(b"x" * 100, compress=compress)
    (path,) = (path for path in store.root.rglob("*") if path.is_file())
    harm(path)

    assert store.put(b"x" * 100) == reference
    assert store.get(reference) == b"x" * 100
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


def test_no_link_is_followed(store, tmp_path):
    """A folder of objects from somebody else: nothing is written or deleted where a link leads."""
    reference = store.put(b"x")
    (path,) = (path for path in store.root.rglob("*") if path.is_file())
    victim = tmp_path / "victim"
    path.rename(victim)
    path.symlink_to(victim)
    with pytest.raises(CorruptState, match="link"):
        store.get(reference)
    assert store.put(b"x") == reference
    assert not path.is_symlink()
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(tmp_path / "elsewhere")
    for act in (lambda: store.get(reference), lambda: store.delete(reference), lambda: store.put(b"x")):
        with pytest.raises(CorruptState, match="link"):
            act()

    assert (tmp_path / "elsewhere" / path.name).read_bytes() == b"x"
    assert victim.read_bytes() == b"x"
