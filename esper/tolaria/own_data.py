"""What a script's own loader gives: its fingerprint, and why a run of it may come out otherwise another time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader


def fingerprint_of(loader: object, batch: object) -> str:
    """The SHA-256, in hex, of what a loader says of itself and of the first batch that it gives.

    Of the batch every tensor counts with its type, its shape and its bytes, and every other leaf by its text.
    """
    found = hashlib.sha256(repr(described(loader)).encode())
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)} ".encode())
            found.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(leaf, str | int | float | bool | None):
            found.update(repr(leaf).encode())
        else:  # the text of any other object may have its address in it
            found.update(type(leaf).__qualname__.encode())
    return found.hexdigest()


def described(loader: object) -> dict[str, Any]:
    """A loader in plain values: its kind, its length, and of a DataLoader how it draws its batches."""
    told: dict[str, Any] = {"kind": type(loader).__qualname__}
    try:
        told["length"] = len(loader)  # type: ignore[arg-type]  # whoever has none says so
    except TypeError:
        told["length"] = None
    if isinstance(loader, DataLoader):
        told |= {"batch_size": loader.batch_size, "workers": loader.num_workers, "drop_last": loader.drop_last}
        told |= {"data": type(loader.dataset).__qualname__, "sampler": type(loader.sampler).__qualname__}
    return told


def reasons(loader: object, fingerprint: str, recorded: str) -> Iterator[str]:
    """Why a script that is run again may not come to its record, as far as one batch shows it, in one line each.

    `recorded` is the fingerprint on record, empty where nothing can be said of it.
    """
    if recorded and fingerprint != recorded:
        yield "its first batch is another one than on record: the data, their order or what loads them has changed"
    workers = loader.num_workers if isinstance(loader, DataLoader) else 0
    if workers:
        yield f"its loader has {workers} workers: what they draw outside of torch comes out otherwise each time"
    if not torch.are_deterministic_algorithms_enabled():
        yield (
            "it does not call torch.use_deterministic_algorithms(True): some operations do not come to the same bits "
            "twice, on a GPU above all"
        )
