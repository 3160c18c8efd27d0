"""Objects in an S3 store, from two machines: what one writes the other has, compared, and copies stay in a budget."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from esper.errors import CorruptState, Interrupted, InvalidInput, LogUnavailable
from esper.leyline.objects import ObjectStore
from projections import shared_objects
from projections.addresses import Folder
from projections.shared_objects import SharedObjects
from streams.objects import object_store

CONTENT = b"weights" * 1_000


@pytest.fixture
def address(bucket, monkeypatch) -> str:
    monkeypatch.setenv("ESPER_OBJECTS_URL", f"s3://{bucket}/esper")
    return f"s3://{bucket}/esper"


def place(reference: str, packed: str = "") -> str:
    digest = reference.removeprefix("sha256:")
    return f"{digest[:2]}/{digest[2:]}{packed}"


@pytest.mark.parametrize("compress", [False, True])
def test_what_one_machine_writes_every_other_has(address, tmp_path, compress):
    one, other = object_store(tmp_path / "one"), object_store(tmp_path / "other")
    reference = one.put(CONTENT, compress=compress)

    assert reference in other
    assert other.size(reference) == len(CONTENT)
    assert other.get(reference) == CONTENT
    assert ObjectStore(tmp_path / "other" / "objects").get(reference) == CONTENT  # it lies here now
    one.delete(reference)
    assert reference not in object_store(tmp_path / "third")


def test_nothing_that_comes_from_there_is_believed(address, tmp_path):
    there = Folder.at(address)
    reference = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    other = object_store(tmp_path)
    for content, packed in ((CONTENT[:-1] + b"x", ""), (b"no frame", ".zst")):
        there.write(place(reference, packed), content)
        with pytest.raises(CorruptState, match=f"at {address}: object {reference}"):
            other.get(reference)
        there.remove(place(reference, packed))
    with pytest.raises(InvalidInput, match=f"is neither in .* nor at {address}"):
        other.get(reference)

    assert reference not in ObjectStore(other.root)


def test_a_copy_that_is_damaged_is_had_anew(address, tmp_path):
    store = object_store(tmp_path)
    reference = store.put(CONTENT)
    (tmp_path / "objects" / place(reference)).write_bytes(b"damaged")

    assert store.get(reference) == CONTENT
    assert ObjectStore(tmp_path / "objects").get(reference) == CONTENT


def test_copies_stay_within_their_budget_and_the_oldest_go_first(address, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_objects, "LOOK_EVERY", 1)
    store = SharedObjects(tmp_path, Folder.at(address), budget=3_500)
    references = []
    for number in range(5):
        references.append(store.put(bytes([number]) * 1_000))
        for age, each in enumerate(references):  # as if some time lay between them
            file = tmp_path / place(each)
            if file.exists():
                os.utime(file, (age, age))
    here = ObjectStore(tmp_path)

    assert [each in here for each in references] == [False, False, True, True, True]
    assert store.get(references[0]) == bytes(1_000)
    assert [each in here for each in references] == [True, False, False, True, True]


@pytest.mark.requirement("R-OPS-14")
def test_a_store_that_does_not_answer_is_one_line(store, address, tmp_path):
    shared = object_store(tmp_path)
    reference = shared.put(CONTENT)
    store.stop()
    with pytest.raises(Interrupted, match=f"^{address} does not take an object") as kept:
        shared.put(b"more")
    with pytest.raises(LogUnavailable, match=f"^the objects at {address} cannot be reached") as asked:
        shared.get("sha256:" + "0" * 64)

    assert shared.get(reference) == CONTENT  # it lies here
    assert "\n" not in str(kept.value) + str(asked.value)


def test_without_an_address_there_is_the_folder_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("ESPER_OBJECTS_URL", raising=False)
    assert type(object_store(tmp_path)) is ObjectStore
    monkeypatch.setenv("ESPER_OBJECTS_URL", "nothing-knows-this://x")
    with pytest.raises(InvalidInput, match="nothing-knows-this://x"):
        object_store(tmp_path)


def test_a_folder_of_several_machines_will_do_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_OBJECTS_URL", str(tmp_path / "mounted"))
    reference = object_store(tmp_path / "one").put(CONTENT)

    assert object_store(tmp_path / "other").get(reference) == CONTENT
    assert (Path(tmp_path) / "mounted" / place(reference)).read_bytes() == CONTENT
