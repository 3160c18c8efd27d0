"""Checkpoints: a safetensors file and a JSON manifest, both objects by their SHA-256: there whole, or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import safetensors
import safetensors.torch

from esper.errors import CorruptState, EsperError
from esper.leyline.objects import ObjectStore
from esper.tolaria.state_tree import FlatState

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run a state belongs: the facts up to `sequence` are contained in it."""

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


def save(objects: ObjectStore, flat: FlatState, root: bytes, position: Position) -> Checkpoint:
    """Store a state durably. The manifest goes last, so whoever has its reference has everything."""
    where = _place(position)
    # The position inside makes the object this run's own: pruning it can never take another run's identical weights.
    tensors = safetensors.torch.save(flat.tensors, metadata={name: str(value) for name, value in where.items()})
    tensors_ref = objects.put(tensors)
    manifest = {"format": FORMAT, **where, "digest": root.hex(), "tensors_ref": tensors_ref, "state": flat.scalars}
    content = json.dumps(manifest, sort_keys=True).encode()
    return Checkpoint(objects.put(content), position, len(tensors) + len(content))


def load(objects: ObjectStore, ref: str) -> tuple[FlatState, bytes, Position]:
    """The state behind `ref`, its digest's root and its position.

    Raises CorruptState where an object was changed or is no checkpoint, InvalidInput where one is missing.
    """
    try:
        manifest: dict[str, Any] = json.loads(objects.get(ref))
        if manifest["format"] != FORMAT:
            raise CorruptState(f"checkpoint {ref} has format {manifest['format']}; this Esper reads {FORMAT}")
        position = Position(*(manifest[name] for name in Position.__slots__))
        root = bytes.fromhex(manifest["digest"])
        tensors = safetensors.torch.load(objects.get(manifest["tensors_ref"]))
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptState(f"object {ref} is no checkpoint: {error}") from None
    return FlatState(tensors, manifest["state"]), root, position


def tensors_of(objects: ObjectStore, ref: str) -> str:
    """The reference of the tensors that belong to the manifest `ref`; raises as `load` does."""
    try:
        return str(json.loads(objects.get(ref))["tensors_ref"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"object {ref} is no checkpoint: {error}") from None


def delete(objects: ObjectStore, checkpoint: Checkpoint) -> int:
    """Remove both objects, the manifest first; returns the bytes freed, 0 where it was gone or is damaged."""
    try:
        tensors = tensors_of(objects, checkpoint.ref)
    except EsperError:
        return objects.delete(checkpoint.ref)
    return objects.delete(checkpoint.ref) + objects.delete(tensors)


def _place(position: Position) -> dict[str, Any]:
    return {name: getattr(position, name) for name in Position.__slots__}
