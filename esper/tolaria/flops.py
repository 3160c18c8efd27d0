"""Floating-point operations, counted by torch and multiplied: a structure is measured once, the rest is arithmetic.

`torch.utils.flop_counter` counts matrix products, convolutions and attention, as every published figure does; norms,
activations and the optimiser are not in it. A test holds that counting does not change a bit of what is computed.

Torch knows no formula for the attention of a CPU. Whether it is counted by that of a GPU's is a setting of the run,
`count_attention`: what a task's run measures, and so what it computes, follows from what a pass costs, and a record
must replay. A script's run measures all of its probe whatever that costs, and counts it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from esper.tolaria.data import Samples, own_random_stream

Purpose = Literal["training", "side_pass", "probe", "evidence"]

_NOTHING: Final = nullcontext()
"""Every step enters one twice, so it is made once."""


class Total:
    """A module tracker that tracks no module: what is counted is counted once, for the whole.

    Torch's own hooks every module's output for `autograd.grad`, which raises where a module gives a parameter as it is.
    Seven templates have such a module, a table, and a run that grew one of them ended there.
    """

    parents: Final = frozenset({"Global"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """There is nothing to undo."""


def _attention(query: Any, key: Any, value: Any, *_rest: Any, **_named: Any) -> int:
    """FLOPs of attention between tensors of these shapes, masked or not."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_rest: Any, **_named: Any) -> int:
    """FLOPs of its backward pass, which computes the products of the forward pass again."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_ON_CPU: Final[dict[Any, Any]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001 - the operator's name
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001
}


class Counter(FlopCounterMode):
    """Torch's counter of FLOPs, for the total alone; with `attention` that of a CPU is in it."""

    def __init__(self, *, attention: bool = False) -> None:
        super().__init__(display=False, custom_mapping=_ON_CPU if attention else None)
        self.mod_tracker = Total()  # type: ignore[assignment]  # all that is asked of it is `parents`


class FlopMeter:
    """FLOPs that a run has spent so far, by purpose; with `attention` a CPU's is counted."""

    def __init__(self, *, attention: bool = False) -> None:
        self._attention = attention
        self.spent: dict[str, float] = dict.fromkeys(get_args(Purpose), 0.0)
        self._per_sample: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Training, side passes, probes and evidence together."""
        return sum(self.spent.values())

    @property
    def measuring(self) -> float:
        """All but the steps' own: side passes, probes and evidence."""
        return self.total - self.spent["training"]

    def structure_changed(self) -> None:
        """Measure every kind of pass anew: the network is another one."""
        self._per_sample.clear()

    def counted(self, purpose: Purpose, kind: str, samples: int) -> AbstractContextManager[None]:
        """Add the cost of the block, which handles `samples` samples; the first of a `kind` is measured."""
        known = self._per_sample.get(kind)
        if known is None:
            return self._measured(purpose, kind, samples)
        self.spent[purpose] += known * samples
        return _NOTHING

    def knows(self, kind: str) -> bool:
        """Whether a kind of pass has been measured."""
        return kind in self._per_sample

    def cost(self, kind: str) -> float | None:
        """What a sample of a kind of pass costs; None where none has been measured."""
        return self._per_sample.get(kind)

    def measure(self, kind: str, samples: int, block: Callable[[], object], *, times: float) -> None:
        """Let a kind of pass cost `times` what `block` does, which handles `samples` samples."""
        with Counter(attention=self._attention) as counter:
            block()
        self._per_sample[kind] = times * counter.get_total_flops() / samples

    @contextmanager
    def _measured(self, purpose: Purpose, kind: str, samples: int) -> Iterator[None]:
        with Counter(attention=self._attention) as counter:
            yield
        known = self._per_sample[kind] = counter.get_total_flops() / samples
        self.spent[purpose] += known * samples

    def state(self) -> dict[str, float]:
        """The FLOPs spent by purpose; a rollback does not reduce them."""
        return dict(self.spent)


def host_flops_per_sample(
    host: nn.Module, loss: Callable[[Any, Any], Tensor], samples: Samples, *, attention: bool = False
) -> int:
    """FLOPs of one sample's forward and backward pass; measured on a copy, so that nothing of the host changes."""
    twin = copy.deepcopy(host)
    with own_random_stream(samples.device), Counter(attention=attention) as counter:
        loss(twin(samples.inputs), samples.targets).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // len(samples)
