"""What a seed must not do: pull on parameters that are not its own, and keep more and more memory.

A leak is found in the autograd graph of the seed's output: whatever it reaches beside the seed's own parameters is
foreign, however it got there (a seed input that was not detached, a shared parameter, a captured activation). Then it
is measured: a summed absolute gradient above the tolerance is a violation. The caller throws the output of a leaking
forward away, so the host never feels it. Source: R-KAS-15, R-KAS-24, R-KAS-25.

Of memory only what the module's attributes hold is counted, so the figure is the same on every machine and in every
repetition; what the allocator or another thread does is not the seed's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import BreakerChanged
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_CLOSED, CIRCUIT_BREAKER_STATE_OPEN
from esper.kasmina.settings import SeedSettings
from esper.leyline.breaker import CircuitBreaker

MIB: Final = 2**20
_TORCHS_OWN: Final = frozenset(vars(nn.Module()))
_CONTAINERS: Final = (list, tuple, set, frozenset, deque, dict)


def foreign_leaves(output: Tensor, own: Iterable[nn.Parameter]) -> list[Tensor]:
    """The leaf tensors that a backward pass from `output` would reach and that are not in `own`."""
    allowed = {id(parameter) for parameter in own}
    if output.grad_fn is None:
        return [output] if output.requires_grad and id(output) not in allowed else []
    found: dict[int, Tensor] = {}
    seen = {output.grad_fn}
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) not in allowed:
            found[id(leaf)] = leaf
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return list(found.values())


def leak_size(output: Tensor, leaves: list[Tensor]) -> float:
    """The summed absolute gradient of `output`'s sum on `leaves`; infinite where the graph was freed already.

    A freed graph means that the seed kept something of an earlier backward pass: it cannot be measured, and is a leak.
    """
    if output.grad_fn is None:
        return float(output.numel())
    try:
        gradients = torch.autograd.grad(output.sum(), leaves, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return math.inf
    return sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None)


class Isolation:
    """One breaker a seed: as many violations within the window as the settings say open it, and the seed must go."""

    def __init__(self, settings: SeedSettings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._breakers: dict[str, CircuitBreaker] = {}
        self._opened: dict[str, BreakerChanged] = {}

    def leaks(self, output: Tensor, own: Iterable[nn.Parameter]) -> float:
        """How much `output` pulls on what is not its seed's: 0 for nothing, else the summed absolute gradient."""
        leaves = foreign_leaves(output, own)
        size = leak_size(output, leaves) if leaves else 0.0
        return size if size > self._settings.leak_tolerance else 0.0

    def violated(self, seed_id: str, reason: str) -> bool:
        """Record a violation; True when it opens the breaker."""
        changes = self._breaker(seed_id).failed(reason)
        if changes:
            self._opened[seed_id] = changes[-1]
        return bool(changes)

    def settle(self, found: Iterable[str], counting: Collection[str]) -> None:
        """Make the breakers agree with what counts: close those `found` open that do not, open all that are `counting`.

        Nothing is published, and nothing changes where both are the same.
        """
        for seed_id in set(found).difference(counting):
            self._breaker(seed_id).force(CIRCUIT_BREAKER_STATE_CLOSED, "as recorded")
        for seed_id in counting:
            self.reopen(seed_id)

    def reopen(self, seed_id: str) -> None:
        """Open the seed's breaker without publishing it."""
        self._breaker(seed_id).force(CIRCUIT_BREAKER_STATE_OPEN, "as recorded")

    def _breaker(self, seed_id: str) -> CircuitBreaker:
        if seed_id not in self._breakers:
            self._breakers[seed_id] = CircuitBreaker(
                f"gradient_isolation/{seed_id}",
                failures=self._settings.isolation_violations,
                window_s=self._settings.isolation_window_s,
                reset_s=math.inf,  # it stays open until the slot is scrubbed
                monotonic=self._monotonic,
            )
        return self._breakers[seed_id]

    def drain_opened(self) -> dict[str, BreakerChanged]:
        """The breakers that opened since the last call, by seed, each with the fact to publish."""
        opened, self._opened = self._opened, {}
        return opened

    def reset(self, seed_id: str) -> list[BreakerChanged]:
        """Forget a seed's violations, because its slot was scrubbed; the fact where that closes an open breaker."""
        breaker = self._breakers.pop(seed_id, None)
        self._opened.pop(seed_id, None)
        return [] if breaker is None else breaker.force(CIRCUIT_BREAKER_STATE_CLOSED, "the slot was scrubbed")


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
