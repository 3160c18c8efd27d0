"""What a seed keeps beside its parameters and buffers; one that keeps more in every pass must go before memory does.

Only what the module holds itself is counted, so the figure is the same on every machine and in every repetition; what
the allocator or another thread does is not the seed's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from torch import Tensor, nn

MIB: Final = 2**20
_TORCHS_OWN: Final = frozenset(vars(nn.Module()))
_CONTAINERS: Final = (list, tuple, set, frozenset, deque, dict)


def kept_bytes(module: nn.Module) -> int:
    """Bytes of the tensors that the module's attributes hold, also in containers, parameters and buffers left out."""
    kept = dict[int, int]()
    for each in module.modules():
        attributes = vars(each)
        for name in attributes.keys() - _TORCHS_OWN:
            _count(attributes[name], kept)
    if not kept:
        return 0
    for own in (*module.parameters(), *module.buffers()):
        kept.pop(own.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def _count(value: Any, kept: dict[int, int]) -> None:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, _CONTAINERS):
        within: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for each in within:
            _count(each, kept)
