"""The wide forward: a layer of the host computes its own units and a seed's in one product.

While a width seed is mixed in, producer, norms and consumer of its place run with the seed's weights behind the host's:

    producer:  y = [W; P] x + [b; p]             W (units, incoming), P (n, incoming); of attention W and P are queries,
                                                 keys and values, and each of these three has its own new rows behind it
    norms:     each unit with figures of its own
    consumer:  z = [C, alpha * Q] act(y) + c     C (outputs, inputs), Q (outputs, n x inputs of a unit)

A layer can be the consumer of one seed and the producer of another at once: then the corner, the other's new rows over
the one's new columns, is zero. A pass without the seed, and one at alpha 0, computes the narrow host. So absorbing the
seed changes no bit: it is the same product over the same numbers.

The layers keep their class and their parameters: only the instance's `forward` is another one while a seed lives, and
it reads the module's own tensors each time, so `torch.func.functional_call` can lend it others. Outside of that the
host is plain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.leyline.v1.event_pb2 import SiteDescription

LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)

Weights = Mapping[str, Tensor]
"""A seed's tensors by the names of `esper.karn.templates.width.WiderLayer`, the outgoing ones already times alpha."""
Source = Callable[[], Weights | None]
"""The weights for the forward pass that runs now; None where it is to compute the narrow host."""
Watch = Callable[[Tensor, Tensor, Tensor], None]
"""Called with the input and output of a wide consumer and the new outgoing weights, after its forward pass."""


def joined(tensors: Sequence[Tensor], axis: int = 0, sections: int = 1) -> Tensor:
    """The tensors behind each other along the axis; or, of so many sections of each, first, second…."""
    if sections == 1:
        return torch.cat([*tensors], axis)
    parts = zip(*(each.chunk(sections, axis) for each in tensors), strict=True)
    return torch.cat([each for section in parts for each in section], axis)


class Widening:
    """One seed's hold on the layers of its place; `remove` lets them go."""

    def __init__(self, host: nn.Module, site: SiteDescription, source: Source, watch: Watch | None = None) -> None:
        place = site.width
        producer, consumer = _layer(host, site.site), _layer(host, place.consumer)
        producer.as_producer.append(source)
        producer.sections = max(1, place.sections)
        consumer.as_consumer.append(source)
        self._held: list[tuple[_WideLayer, list[Source]]] = [
            (producer, producer.as_producer),
            (consumer, consumer.as_consumer),
        ]
        self._watched = (consumer, watch)
        if watch is not None:
            consumer.watches.append(watch)
        self._norms = [host.get_submodule(name) for name in place.norms]
        self._source = source
        for number, norm in enumerate(self._norms):
            norm.forward = _wide_norm(norm, number, source)

    def remove(self) -> None:
        """Give the layers back; the last seed of a layer leaves it plain."""
        for layer, sources in self._held:
            sources.remove(self._source)
            layer.release()
        consumer, watch = self._watched
        if watch is not None:
            consumer.watches.remove(watch)
        for norm in self._norms:
            del norm.forward


def _layer(host: nn.Module, name: str) -> _WideLayer:
    module = host.get_submodule(name)
    found = vars(module).get("forward")
    if isinstance(found, _WideLayer):
        return found
    layer = _WideLayer(module)
    module.forward = layer  # an instance's own forward goes before its class's
    return layer


class _WideLayer:
    """The forward of one linear layer or convolution that seeds make wider: more rows, more columns, or both."""

    def __init__(self, module: nn.Module) -> None:
        self._module: Any = module
        self.as_producer: list[Source] = []
        self.as_consumer: list[Source] = []
        self.watches: list[Watch] = []
        self.sections = 1

    def release(self) -> None:
        """Take this forward off the module where no seed needs it."""
        if not self.as_producer and not self.as_consumer:
            vars(self._module).pop("forward", None)

    def __call__(self, inputs: Tensor) -> Tensor:
        module = self._module
        columns = [weights["consumer_weight"] for source in self.as_consumer if (weights := source()) is not None]
        rows = [weights for source in self.as_producer if (weights := source()) is not None]
        weight, bias = module.weight, module.bias
        if columns:
            weight = torch.cat([weight, *columns], 1)
        if rows:
            new = [_with_columns(each["producer_weight"], weight) for each in rows]
            weight = joined([weight, *new], sections=self.sections)
            if bias is not None:
                bias = joined([bias, *(each["producer_bias"] for each in rows)], sections=self.sections)
        outputs: Tensor = (
            functional.linear(inputs, weight, bias)
            if isinstance(module, nn.Linear)
            else module._conv_forward(inputs, weight, bias)  # noqa: SLF001 - padding modes and all, as the class does it
        )
        if columns:
            for watch in self.watches:
                watch(inputs, outputs, columns[0])
        return outputs


def _with_columns(rows: Tensor, weight: Tensor) -> Tensor:
    """New rows of another seed see nothing of the columns that the layer has only for the time being."""
    missing = weight.shape[1] - rows.shape[1]
    if not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(rows.shape[0], missing, *rows.shape[2:])], 1)


def _wide_norm(norm: Any, number: int, source: Source) -> Callable[[Tensor], Tensor]:
    """The forward of a norm whose units are the host's and the seed's."""
    plain = type(norm).forward

    def forward(inputs: Tensor) -> Tensor:
        weights = source()
        if weights is None:
            narrow: Tensor = plain(norm, inputs)
            return narrow
        weight = torch.cat([norm.weight, weights[f"norm_{number}_weight"]])
        bias = torch.cat([norm.bias, weights[f"norm_{number}_bias"]])
        if isinstance(norm, nn.GroupNorm):
            groups = norm.num_groups * len(weight) // norm.num_channels
            return functional.group_norm(inputs, groups, weight, bias, norm.eps)
        statistics = [weights[name] for name in (f"norm_{number}_mean", f"norm_{number}_var") if name in weights]
        return _batch_norm(norm, inputs, (weight, bias), statistics)

    return forward


def _batch_norm(norm: Any, inputs: Tensor, affine: tuple[Tensor, Tensor], new: Sequence[Tensor]) -> Tensor:
    """As `nn.BatchNorm1d` and `nn.BatchNorm2d` do it; `new` are running mean and variance of the new units, if any."""
    if not new:
        return functional.batch_norm(inputs, None, None, *affine, True, 0.0, norm.eps)
    own = (norm.running_mean, norm.running_var)
    mean, variance = (torch.cat(pair) for pair in zip(own, new, strict=True))
    share = norm.momentum or 0.0
    if norm.training:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            share = 1.0 / float(norm.num_batches_tracked)
    outputs = functional.batch_norm(inputs, mean, variance, *affine, norm.training, share, norm.eps)
    if norm.training:
        for wide, narrow, added in zip((mean, variance), own, new, strict=True):
            narrow.copy_(wide[: len(narrow)])
            added.copy_(wide[len(narrow) :])
    return outputs
