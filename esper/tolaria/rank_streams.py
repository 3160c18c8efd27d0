"""The random streams of several ranks in one kept state: rank 0's are the state's, those of the others lie beside.

No digest covers them, as it does not the streams of Python and numpy: they are there so that a script whose ranks draw
different numbers, by `torch.manual_seed(seed + rank)` or so, goes on on every rank where that rank was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from esper.tolaria.state import PROGRESS, FlatState, Snapshot, digest, digested

BESIDE: Final = "ranks"
_OWN: Final = "own_streams"
_RANDOM: Final = "random"


def streams_of(flat: FlatState) -> FlatState:
    """The random streams of a kept state: those of torch, of Python and of numpy."""
    tensors = {name: each for name, each in flat.tensors.items() if name.startswith((f"{_RANDOM}/", f"{_OWN}/"))}
    return FlatState(tensors, {_RANDOM: flat.scalars[_RANDOM], _OWN: flat.scalars[PROGRESS].get(_OWN)})


def with_ranks(snapshot: Snapshot, streams: Sequence[FlatState]) -> Snapshot:
    """The state of rank 0 with the `streams` of all ranks, in their order; itself where all are alike."""
    others = {str(rank): each for rank, each in enumerate(streams) if not _alike(each, streams[0])}
    if not others:
        return snapshot
    tensors = {
        f"{BESIDE}/{rank}/{name}": tensor for rank, each in others.items() for name, tensor in each.tensors.items()
    }
    scalars = dict(snapshot.flat.scalars)
    scalars[PROGRESS] = {**scalars[PROGRESS], BESIDE: {rank: each.scalars for rank, each in others.items()}}
    return replace(snapshot, flat=FlatState(snapshot.flat.tensors | tensors, scalars))


def of_rank(snapshot: Snapshot, rank: int) -> Snapshot:
    """The state as the rank goes on from it: with its own streams, where they were kept."""
    flat = snapshot.flat
    scalars: dict[str, Any] = dict(flat.scalars)
    own = scalars[PROGRESS].get(BESIDE, {}).get(str(rank))
    if own is None:
        return snapshot
    scalars[_RANDOM] = own[_RANDOM]
    scalars[PROGRESS] = {**scalars[PROGRESS], _OWN: own[_OWN]}
    start = f"{BESIDE}/{rank}/"
    tensors = {name.removeprefix(start): each for name, each in flat.tensors.items() if name.startswith(start)}
    flat = FlatState(flat.tensors | tensors, scalars)
    return replace(snapshot, flat=flat, root=digest(digested(flat)).root)


def _alike(one: FlatState, other: FlatState) -> bool:
    same = one.scalars == other.scalars and one.tensors.keys() == other.tensors.keys()
    return same and all(torch.equal(each, other.tensors[name]) for name, each in one.tensors.items())
