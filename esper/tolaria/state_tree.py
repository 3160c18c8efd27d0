"""A run's state as named tensors and one JSON document, and the digest over both.

State is a tree of dictionaries and lists. Flattened, tensors stand under their path (such as
`optimizer/groups/0/state/3/exp_avg`) and the rest stays a tree, with the path in the tensor's place: what safetensors
and JSON can hold, and nothing to unpickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from esper.errors import CorruptState, InvalidInput

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
    """The tree again. Its tensors are those of `flat`: whoever loads them must copy."""
    tree = _restore(flat.scalars, flat.tensors)
    assert isinstance(tree, dict)
    return tree


def digest(flat: FlatState) -> Digest:
    """The digest; equal exactly where every name, type, shape, bit and scalar is."""
    parts = {name: _tensor_digest(tensor) for name, tensor in flat.tensors.items()}
    parts["scalars"] = hashlib.sha256(json.dumps(flat.scalars, sort_keys=True).encode()).hexdigest()
    root = hashlib.sha256("".join(f"{name} {parts[name]}\n" for name in sorted(parts)).encode())
    return Digest(root.digest(), parts)


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
