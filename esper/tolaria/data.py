"""Samples, splits and the order in which an epoch visits them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Samples:
    """`inputs` of shape (N, ...) and `targets` of shape (N, ...); raises InvalidInput where the two do not match."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
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
