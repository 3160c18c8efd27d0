"""Samples, splits, the order in which an epoch visits them, and one random stream per purpose (ruling 14).

Each stream has its own recorded seed: a run that draws one number more for its initialisation still sees its data in
the same order. What a host draws while it trains, such as dropout, comes from torch's global stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from esper.errors import InvalidInput
from esper.tolaria.encoded import own_streams, seed_own_streams, set_own_streams
from esper.tolaria.own_code import caller


@dataclass(frozen=True, slots=True)
class Samples:
    """`inputs` and `targets`, a tensor of shape (N, ...) each, or a dictionary, list or tuple of such tensors.

    Raises InvalidInput where they are not of as many samples.
    """

    inputs: Any
    targets: Any

    def __post_init__(self) -> None:
        lengths = [
            _length_of(name, leaf)
            for name, value in (("inputs", self.inputs), ("targets", self.targets))
            for leaf in _told(value)
        ]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise InvalidInput(
                f"{lengths[0]} inputs and {lengths[-1]} targets are no set of samples; "
                "give one target per input, and one sample at least"
                if lengths[0] != lengths[-1] or not lengths[0]
                else f"the tensors of a sample are of {', '.join(map(str, lengths))} samples; give as many of each"
            )

    def __len__(self) -> int:
        return len(_leaves(self.inputs)[0])

    @property
    def leaves(self) -> list[Tensor]:
        """Every tensor, those of the inputs first."""
        return [*_leaves(self.inputs), *_leaves(self.targets)]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return _leaves(self.inputs)[0].device

    @property
    def exact(self) -> bool:
        """Whether the targets are classes: no number of them is floating point."""
        return not any(leaf.is_floating_point() for leaf in _leaves(self.targets))

    def to(self, device: torch.device) -> Samples:
        """The same samples on `device`."""
        return self._each(lambda leaf: leaf.to(device))

    def take(self, indices: Tensor) -> Samples:
        """The samples at `indices`, in their order."""
        return self._each(lambda leaf: leaf[indices])

    def head(self, count: int) -> Samples:
        """The first so many, or all."""
        return self._each(lambda leaf: leaf[:count])

    def parts(self, size: int) -> Iterator[Samples]:
        """All of them in their order, `size` at a time."""
        for begin in range(0, len(self), size):
            yield self._each(lambda leaf, begin=begin: leaf[begin : begin + size])

    def _each(self, change: Callable[..., Tensor]) -> Samples:
        if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
            return Samples(change(self.inputs), change(self.targets))
        return Samples(tree_map(change, self.inputs), tree_map(change, self.targets))


def _leaves(value: Any) -> list[Tensor]:
    """The tensors of a nested value; whatever else it holds is among them until a set of samples has refused it."""
    return [value] if isinstance(value, Tensor) else tree_leaves(value)


def _told(value: Any) -> list[Any]:
    """What to ask for its length: what is nested in a value, or the value itself where no tensor is."""
    found = _leaves(value)
    return found if any(isinstance(each, Tensor) for each in found) else [value]


def _length_of(name: str, value: Any) -> int:
    """How many samples a tensor is of; raises InvalidInput for what is none."""
    if not isinstance(value, Tensor):
        raise InvalidInput(_no_tensor(name, value))
    return len(value) if value.dim() else 0


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
        for tensor in part.leaves:
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

    def begin_training(self, *, everywhere: bool = False) -> None:
        """Seed torch's global stream for dropout; call it once the host is made.

        With `everywhere` Python's and NumPy's too, which a person's loader may draw from.
        """
        torch.manual_seed(self.seeds["dropout"])
        if everywhere:
            seed_own_streams(self.seeds["data"])

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
def every_stream_kept(device: torch.device) -> Iterator[None]:
    """A context after which the random streams of torch, NumPy and Python are as they were before it."""
    before = own_streams()
    try:
        with own_random_stream(device):
            yield
    finally:
        set_own_streams(before)


@contextmanager
def own_random_stream(device: torch.device) -> Iterator[None]:
    """A context after which torch's global streams are as they were before it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
