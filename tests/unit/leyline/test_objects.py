"""The object store gives back exactly what was put in, or says that it cannot."""

from __future__ import annotations

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
