"""A run's state as named tensors and one JSON document: its digest, checkpoints of it on disk, snapshots in memory.

State is a tree of dictionaries and lists. Flattened, tensors stand under their path (such as
`optimizer/groups/0/state/3/exp_avg`) and the rest stays a tree, with the path in the tensor's place: what safetensors
and JSON can hold, and nothing to unpickle. A checkpoint is a safetensors file and a JSON manifest, both objects named
by their SHA-256, so that it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore
from esper.tolaria.structure import MANIFEST_BYTES

CHECKPOINT_FORMAT: Final = 1
PROGRESS: Final = "progress"
"""The part of a kept state's scalars that no digest covers."""
_UNDIGESTED: Final = ("own_streams/", "ranks/")
_TENSOR: Final = "$tensor"


@dataclass(frozen=True, slots=True)
class FlatState:
    """Tensors by path, all owned by this object, and the JSON-able rest."""

    tensors: dict[str, Tensor]
    scalars: Any

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Digest:
    """The SHA-256 of a state: `root` over the parts in order of their names, `parts` of each tensor and the rest."""

    root: bytes
    parts: dict[str, str]

    def to_bytes(self) -> bytes:
        """The parts as JSON, for the object store: two runs that differ are compared part by part."""
        return json.dumps(self.parts, sort_keys=True).encode()


def flatten(tree: Mapping[str, Any]) -> FlatState:
    """A copy of `tree`, its tensors on the CPU; raises InvalidInput for a value that neither format can hold."""
    tensors: dict[str, Tensor] = {}
    return FlatState(tensors, _strip(tree, "", tensors))


def unflatten(flat: FlatState) -> dict[str, Any]:
    """The tree again. Its tensors are those of `flat`, not copies."""
    tree = _restore(flat.scalars, flat.tensors)
    assert isinstance(tree, dict)
    return tree


def digest(flat: FlatState) -> Digest:
    """The digest; equal exactly where every name, type, shape, bit and scalar is."""
    parts = {name: _tensor_digest(tensor) for name, tensor in flat.tensors.items()}
    parts["scalars"] = hashlib.sha256(json.dumps(flat.scalars, sort_keys=True).encode()).hexdigest()
    root = hashlib.sha256("".join(f"{name} {parts[name]}\n" for name in sorted(parts)).encode())
    return Digest(root.digest(), parts)


def digested(flat: FlatState) -> FlatState:
    """What the digest of a kept state covers of it."""
    scalars = {name: value for name, value in flat.scalars.items() if name != PROGRESS}
    return FlatState({n: each for n, each in flat.tensors.items() if not n.startswith(_UNDIGESTED)}, scalars)


def _tensor_digest(tensor: Tensor) -> str:
    header = f"{tensor.dtype} {tuple(tensor.shape)};".encode()
    flat = tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    return hashlib.sha256(header + flat.numpy().tobytes()).hexdigest()


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {name: _strip(each, f"{path}/{name}" if path else name, tensors) for name, each in _named(value, path)}
    if isinstance(value, list | tuple):
        return [_strip(each, f"{path}/{number}", tensors) for number, each in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInput(f"state {path} is a {type(value).__name__}; a run's state is tensors, numbers and text")


def _named(value: Mapping[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if not isinstance(name, str):
            raise InvalidInput(f"state {path} has the key {name!r}; keys are text")
        yield name, each


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            if value[_TENSOR] not in tensors:
                raise CorruptState(f"stored state names the tensor {value[_TENSOR]!r} and does not hold it")
            return tensors[value[_TENSOR]]
        return {name: _restore(each, tensors) for name, each in value.items()}
    if isinstance(value, list):
        return [_restore(each, tensors) for each in value]
    return value


# --------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a state in its run: it contains the facts up to `sequence`."""

    run_id: str
    timeline: int
    step: int
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stored state: `ref` is its manifest's, `bytes` what both objects take."""

    ref: str
    position: Position
    bytes: int


def store_checkpoint(objects: ObjectStore, flat: FlatState, root: bytes, position: Position) -> Checkpoint:
    """Store a state durably. The manifest is stored last, so a reference to it is a reference to everything."""
    where = _place(position)
    # The position inside makes the object this run's own: pruning it can never take another run's identical weights.
    tensors = safetensors.torch.save(flat.tensors, metadata={name: str(value) for name, value in where.items()})
    tensors_ref = objects.put(tensors)
    manifest = {
        "format": CHECKPOINT_FORMAT,
        **where,
        "digest": root.hex(),
        "tensors_ref": tensors_ref,
        "state": flat.scalars,
    }
    content = json.dumps(manifest, sort_keys=True).encode()
    return Checkpoint(objects.put(content), position, len(tensors) + len(content))


def load_checkpoint(objects: ObjectStore, ref: str) -> tuple[FlatState, bytes, Position]:
    """The state behind `ref`, its digest's root and its position.

    Raises CorruptState where an object was changed or is no checkpoint, InvalidInput where one is missing.
    """
    try:
        manifest: dict[str, Any] = parsed(objects.get(ref, MANIFEST_BYTES), MANIFEST_BYTES)
        if manifest["format"] != CHECKPOINT_FORMAT:
            raise CorruptState(
                f"checkpoint {ref} has format {manifest['format']}; this Esper reads {CHECKPOINT_FORMAT}"
            )
        position = Position(*(manifest[name] for name in Position.__slots__))
        root = bytes.fromhex(manifest["digest"])
        tensors = safetensors.torch.load(objects.get(manifest["tensors_ref"]))
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptState(f"object {ref} is no checkpoint: {error}") from None
    return FlatState(tensors, manifest["state"]), root, position


def tensors_of_checkpoint(objects: ObjectStore, ref: str) -> str:
    """The reference of the tensors that belong to the manifest `ref`; raises as `load_checkpoint` does."""
    try:
        return str(parsed(objects.get(ref, MANIFEST_BYTES), MANIFEST_BYTES)["tensors_ref"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"object {ref} is no checkpoint: {error}") from None


def delete_checkpoint(objects: ObjectStore, checkpoint: Checkpoint) -> int:
    """Remove both objects, the manifest first; returns the bytes freed, 0 where it was gone or is damaged."""
    try:
        tensors = tensors_of_checkpoint(objects, checkpoint.ref)
    except EsperError:
        return objects.delete(checkpoint.ref)
    return objects.delete(checkpoint.ref) + objects.delete(tensors)


def _place(position: Position) -> dict[str, Any]:
    return {name: getattr(position, name) for name in Position.__slots__}


# ------------------------------------------------------------------------------------------------ snapshots in memory


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state in memory, the root of its digest, and where in the run it belongs."""

    flat: FlatState
    root: bytes
    position: Position


@dataclass(frozen=True, slots=True)
class Pin:
    """The checkpoint from before a seed germinated, which its proof may ask for; `ended_step` is when that was over."""

    seed_id: str
    ref: str
    position: Position
    ended_step: int | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Pin:
        """The pin that `asdict` made plain values of."""
        return cls(**{**stored, "position": Position(**stored["position"])})


class SnapshotCache:
    """At most `count` snapshots of `limit_bytes` together; the oldest go first, and `evictions` counts them.

    A snapshot that is larger than the limit on its own is not kept: then a rollback needs a checkpoint (R-TOL-20).
    Pinned ones are held beside them, however many, until they are released.
    """

    def __init__(self, count: int, limit_bytes: int) -> None:
        self._count = count
        self._limit_bytes = limit_bytes
        self._snapshots: deque[Snapshot] = deque()
        self._pinned: dict[int, Snapshot] = {}
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._snapshots)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held, without the pinned ones'."""
        return sum(snapshot.flat.nbytes for snapshot in self._snapshots)

    def add(self, snapshot: Snapshot) -> None:
        """Keep this one, and as many of the older ones as fit beside it."""
        self._snapshots.append(snapshot)
        while len(self._snapshots) > self._count or (self._snapshots and self.nbytes > self._limit_bytes):
            self._snapshots.popleft()
            self.evictions += 1

    def shrink(self, limit_bytes: int) -> int:
        """Drop the oldest snapshots until the others have so few bytes, but never the newest; how many went."""
        before = len(self._snapshots)
        while len(self._snapshots) > 1 and self.nbytes > limit_bytes:
            self._snapshots.popleft()
            self.evictions += 1
        return before - len(self._snapshots)

    def newest(self) -> Snapshot | None:
        """The latest snapshot, None where there is none."""
        return self._snapshots[-1] if self._snapshots else None

    def forget_after(self, sequence: int) -> None:
        """Drop what a rollback to the fact `sequence` undid."""
        while self._snapshots and self._snapshots[-1].position.sequence > sequence:
            self._snapshots.pop()

    def pin(self, snapshot: Snapshot) -> None:
        """Hold this one until it is released, unless it is too large to be kept at all."""
        if snapshot.flat.nbytes <= self._limit_bytes:
            self._pinned[snapshot.position.sequence] = snapshot

    def pinned(self, sequence: int) -> Snapshot | None:
        """The pinned snapshot of the state after the fact `sequence`, None where none is held."""
        return self._pinned.get(sequence)

    def release(self, needed: AbstractSet[int]) -> None:
        """Drop the pinned snapshots but those after the facts `needed`."""
        self._pinned = {sequence: each for sequence, each in self._pinned.items() if sequence in needed}
