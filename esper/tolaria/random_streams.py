"""Separate random streams for separate purposes, each with its own recorded seed (ruling 14).

A run that draws one number more for its initialisation must not see its data in another order: so no purpose draws from
another's stream. Dropout and whatever else a host draws while it trains comes from torch's global stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

STREAMS: Final = ("data", "init", "dropout", "policy", "probe", "seeds", "aggregation")


def stream_seeds(seed: int) -> dict[str, int]:
    """One seed per stream, 63 bits, from the run's own seed."""
    return {
        name: int.from_bytes(hashlib.sha256(f"esper {seed} {name}".encode()).digest()[:8], "big") >> 1
        for name in STREAMS
    }


class RandomStreams:
    """The generators that the trainer itself draws from, and torch's global stream on the host's device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seeds = stream_seeds(seed)
        self.data = torch.Generator().manual_seed(self.seeds["data"])
        self.probe = torch.Generator().manual_seed(self.seeds["probe"])
        self.aggregation = torch.Generator().manual_seed(self.seeds["aggregation"])
        self._device = device

    def begin_training(self) -> None:
        """Seed torch's global stream for dropout; call it once the host is made."""
        torch.manual_seed(self.seeds["dropout"])

    def state(self) -> dict[str, Any]:
        """The position of every stream, as tensors."""
        state = {
            "data": self.data.get_state(),
            "probe": self.probe.get_state(),
            "aggregation": self.aggregation.get_state(),
            "torch": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Put every stream where `state` says."""
        self.data.set_state(state["data"])
        self.probe.set_state(state["probe"])
        self.aggregation.set_state(state["aggregation"])
        torch.set_rng_state(state["torch"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)


@contextmanager
def own_random_stream(device: torch.device) -> Iterator[None]:
    """Torch's global streams are the caller's again afterwards, as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
