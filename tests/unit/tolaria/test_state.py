"""State as tensors and JSON: round trips, digests that catch a bit, checkpoints that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tolaria.state import (
    FlatState,
    Position,
    Snapshot,
    SnapshotCache,
    delete_checkpoint,
    digest,
    flatten,
    load_checkpoint,
    store_checkpoint,
    tensors_of_checkpoint,
    unflatten,
)

TREE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "scalar": torch.tensor(3.5), "empty": torch.empty(0)},
    "half": torch.tensor([1.0, -0.0], dtype=torch.bfloat16),
    "list": [1, 0.1, None, True, "text", {"deep": torch.tensor([1, 2], dtype=torch.uint8)}],
}
PLACE = Position("run", 1, 20, 2, 9)


def test_a_tree_survives_flattening_and_json() -> None:
    flat = flatten(TREE)
    again = unflatten(FlatState(flat.tensors, json.loads(json.dumps(flat.scalars))))
    assert again["list"][:5] == TREE["list"][:5]
    assert torch.equal(again["list"][5]["deep"], torch.tensor([1, 2], dtype=torch.uint8))
    assert torch.equal(again["weights"]["a"], TREE["weights"]["a"])  # type: ignore[call-overload]
    assert sorted(flat.tensors) == ["half", "list/5/deep", "weights/a", "weights/empty", "weights/scalar"]


def test_flattening_copies() -> None:
    weights = torch.zeros(3)
    flat = flatten({"w": weights})
    weights += 1
    assert flat.tensors["w"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("tree", "message"), [({"a": object()}, "state a is a object"), ({"a": {1: 2}}, "the key 1")])
def test_what_neither_format_holds_is_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        flatten(tree)


def test_the_digest_sees_every_bit_name_shape_type_and_scalar() -> None:
    base = {"w": torch.tensor([0.0, 1.0]), "n": 1}
    variants = [
        base,
        {"w": torch.tensor([-0.0, 1.0]), "n": 1},
        {"w": torch.tensor([[0.0, 1.0]]), "n": 1},
        {"w": torch.tensor([0.0, 1.0], dtype=torch.float64), "n": 1},
        {"v": torch.tensor([0.0, 1.0]), "n": 1},
        {"w": torch.tensor([0.0, 1.0]), "n": 2},
    ]
    assert len({digest(flatten(each)).root for each in variants}) == len(variants)
    assert digest(flatten(base)).root == digest(flatten({"n": 1, "w": torch.tensor([0.0, 1.0])})).root


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    objects, flat = ObjectStore(tmp_path), flatten(TREE)
    root = digest(flat).root
    saved = store_checkpoint(objects, flat, root, PLACE)
    loaded, loaded_root, position = load_checkpoint(objects, saved.ref)
    assert (loaded_root, position) == (root, PLACE)
    assert digest(loaded).root == root
    assert saved.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_two_runs_never_share_a_checkpoint_object(tmp_path: Path) -> None:
    objects, flat = ObjectStore(tmp_path), flatten(TREE)
    mine = store_checkpoint(objects, flat, b"root", PLACE)
    control = store_checkpoint(objects, flat, b"root", Position("control", 1, 20, 2, 9))
    assert delete_checkpoint(objects, mine) == mine.bytes
    assert load_checkpoint(objects, control.ref)[2].run_id == "control"


def test_a_changed_byte_is_corrupt_and_a_missing_object_is_named(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    saved = store_checkpoint(objects, flatten(TREE), b"root", PLACE)
    tensors = tensors_of_checkpoint(objects, saved.ref)
    path = next(path for path in tmp_path.rglob("*") if path.is_file() and tensors.endswith(path.name))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptState, match="does not match its digest"):
        load_checkpoint(objects, saved.ref)
    path.unlink()
    with pytest.raises(InvalidInput, match="is not in"):
        load_checkpoint(objects, saved.ref)


@pytest.mark.parametrize("content", [b"no json", b"{}", b'{"format": 99}', b"[]"])
def test_an_object_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    objects = ObjectStore(tmp_path)
    with pytest.raises(CorruptState, match=r"no checkpoint|format 99"):
        load_checkpoint(objects, objects.put(content))


@pytest.mark.requirement("R-TOL-26")
def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    """R-TOL-26: even a manifest that points at a pickle runs no code."""

    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploited"),)

    import pickle

    objects = ObjectStore(tmp_path / "objects")
    tensors_ref = objects.put(pickle.dumps(Exploit()))
    manifest = {"format": 1, "digest": "00", "tensors_ref": tensors_ref, "state": {}}
    manifest |= {name: getattr(PLACE, name) for name in Position.__slots__}
    with pytest.raises(CorruptState):
        load_checkpoint(objects, objects.put(json.dumps(manifest).encode()))
    assert not (tmp_path / "exploited").exists()


def snapshot(step: int, numbers: int) -> Snapshot:
    return Snapshot(flatten({"w": torch.zeros(numbers)}), b"", Position("run", 1, step, 0, step))


@pytest.mark.requirement("R-TOL-20")
def test_the_cache_keeps_the_newest_within_count_and_bytes() -> None:
    cache = SnapshotCache(count=3, limit_bytes=100)
    for step in range(5):
        cache.add(snapshot(step, 5))  # 20 bytes each
    assert (len(cache), cache.evictions, cache.nbytes) == (3, 2, 60)
    cache.add(snapshot(5, 20))  # 80 bytes: one of 20 still fits beside it
    assert (len(cache), cache.nbytes) == (2, 100)
    newest = cache.newest()
    assert newest is not None
    assert newest.position.step == 5


def test_a_snapshot_above_the_limit_is_not_kept() -> None:
    cache = SnapshotCache(count=3, limit_bytes=100)
    cache.add(snapshot(0, 5))
    cache.add(snapshot(1, 26))
    assert cache.newest() is None


def test_what_a_rollback_undid_is_forgotten() -> None:
    cache = SnapshotCache(count=5, limit_bytes=1_000)
    for step in (0, 10, 20):
        cache.add(snapshot(step, 1))
    cache.forget_after(10)
    newest = cache.newest()
    assert newest is not None
    assert newest.position.step == 10
