"""Random streams of a seed's own, so that growing moves no random number of the host.

Modules such as dropout draw from PyTorch's global generators. Inside `drawing_from(stream)` those generators hold the
stream's state instead of the host's, and get the host's back afterwards; one switch costs about 2 µs on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream called `name` of a run whose seed is `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


class Stream:
    """The states of one random stream, one for the CPU and one for `device` where that is CUDA."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self.states: list[Tensor] = [torch.Generator().manual_seed(seed).get_state()]
        if self._device is not None:
            self.states.append(torch.Generator(self._device).manual_seed(seed).get_state())

    def swap_in(self) -> list[Tensor]:
        """Give the global generators this stream's states; returns what they had."""
        return self._exchange(self.states)

    def swap_out(self, before: list[Tensor], *, keep: bool) -> None:
        """Give the global generators `before` back. With `keep`, the stream goes on from where it was drawn to."""
        drawn = self._exchange(before)
        if keep:
            self.states = drawn

    def _exchange(self, states: list[Tensor]) -> list[Tensor]:
        before = [torch.get_rng_state()]
        torch.set_rng_state(states[0])
        if self._device is not None:
            before.append(torch.cuda.get_rng_state(self._device))
            torch.cuda.set_rng_state(states[1], self._device)
        return before


@contextmanager
def drawing_from(stream: Stream, *, keep: bool = True) -> Iterator[None]:
    """Everything random inside draws from `stream`; without `keep` the stream itself does not move either."""
    before = stream.swap_in()
    try:
        yield
    finally:
        stream.swap_out(before, keep=keep)
