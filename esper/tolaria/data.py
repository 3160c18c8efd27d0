"""Samples, splits, the order in which an epoch visits them, and one random stream per purpose (ruling 14).

Each stream has its own recorded seed: a run that draws one number more for its initialisation still sees its data in
the same order. What a host draws while it trains, such as dropout, comes from torch's global stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from esper.errors import InvalidInput
from esper.tolaria.own_code import caller


@dataclass(frozen=True, slots=True)
class Samples:
    """`inputs` of shape (N, ...) and `targets` of shape (N, ...); raises InvalidInput where the two do not match."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(value, Tensor):
                raise InvalidInput(_no_tensor(name, value))
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise InvalidInput(
                f"{len(self.inputs)} inputs and {len(self.targets)} targets are no set of samples; "
                "give one target per input, and one sample at least"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Samples:
        """The same samples on `device`."""
        return Samples(self.inputs.to(device), self.targets.to(device))

    def take(self, indices: Tensor) -> Samples:
        """The samples at `indices`, in their order."""
        return Samples(self.inputs[indices], self.targets[indices])


def _no_tensor(name: str, value: Any) -> str:
    """What to say of samples that are no tensor, with the line of a person's own that gave them."""
    at = f"{place.argument(name)}: " if (place := caller()) is not None else ""
    dtype = getattr(value, "dtype", None)
    kind = f"{type(value).__module__}.{type(value).__name__}" + (f" of {dtype}" if dtype is not None else "")
    cast = ".float()" if str(dtype).startswith("float") else ".long()" if str(dtype).startswith(("int", "uint")) else ""
    return f"{at}{name} is a {kind} and must be a tensor; give torch.as_tensor({name}){cast}"


def split(samples: Samples, sizes: tuple[int, ...], seed: int) -> list[Samples]:
    """Disjoint random parts of `samples` with these sizes; the same for the same seed on every machine.

    Raises InvalidInput where the sizes ask for more than there is.
    """
    if sum(sizes) > len(samples):
        raise InvalidInput(f"parts of {sizes} need {sum(sizes)} samples and there are {len(samples)}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return [samples.take(part) for part in torch.split(order[: sum(sizes)], list(sizes))]


def epoch_order(samples: int, batch_size: int, steps: int, generator: torch.Generator) -> Tensor:
    """Indices of an epoch's batches, shape (steps, batch_size), int64: no sample twice, and a rest is left out."""
    return torch.randperm(samples, generator=generator)[: steps * batch_size].view(steps, batch_size)


def fingerprint(parts: Iterable[Samples]) -> str:
    """SHA-256 over type, shape and bytes of every tensor, in order: equal exactly where the data are equal."""
    digest = hashlib.sha256()
    for part in parts:
        for tensor in (part.inputs, part.targets):
            contiguous = tensor.detach().cpu().contiguous()
            digest.update(f"{contiguous.dtype} {tuple(contiguous.shape)};".encode())
            digest.update(contiguous.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


STREAMS: Final = ("data", "init", "dropout", "policy", "probe", "seeds", "aggregation")


def stream_seeds(seed: int) -> dict[str, int]:
    """One seed per stream, 63 bits, from the run's own seed."""
    return {name: seed_of(f"esper {seed} {name}") for name in STREAMS}


def seed_of(text: str) -> int:
    """A seed of 63 bits that the text gives on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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

    def reorder(self, order: int) -> None:
        """From the next epoch on the samples come in the run's order number `order`; 0 leaves them as they come."""
        if order:
            self.data.manual_seed(seed_of(f"esper {self.seeds['data']} order {order}"))

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
    """A context after which torch's global streams are as they were before it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
