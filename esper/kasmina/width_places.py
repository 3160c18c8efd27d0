"""Where a host can become wider: a producer whose units a consumer takes in, and a trial that shows that it works.

What may lie between is whatever works unit by unit: activations, dropout, pooling, flattening, BatchNorm, and
GroupNorm where the new units form groups of their own. Nothing between is traced or named in a list: the host is run
once with more units whose outgoing weights are zero. If what the consumer gets first, and what the host gives, is what
it was, the place works; if not, the first module that gives something else is what stands in the way.

Committed combinations, each with a test: Linear to Linear, Conv to Conv, Conv to flatten to Linear, and the GELU layer
of a Transformer block, through tanh, relu and gelu (modules or functions), dropout, max, average and adaptive pooling,
BatchNorm1d, BatchNorm2d and GroupNorm.

Attention can have more heads where one linear layer gives queries, keys and values, in this order, and the module that
runs it takes the number of heads from what the layer gives: the units are the features of heads, new ones come in whole
heads, and the trial is the same. Committed is the attention of `esper.tolaria.hosts.TransformerBlock`. What cannot is
refused by name: nn.MultiheadAttention, whose heads share out its width, and a module that counts its heads itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from contracts.leyline.v1.event_pb2 import SiteDescription, WidthPlace
from esper.errors import InvalidInput
from esper.kasmina.width import LAYERS, NORMS, Weights, Widening

TRIED_ON: Final = 8
"""A place is tried on so many samples of a batch."""
_KINDS: Final[dict[tuple[type[nn.Module], int], str]] = {
    (nn.Linear, 2): "vector",
    (nn.Linear, 3): "token",
    (nn.Conv1d, 3): "image",
    (nn.Conv2d, 4): "image",
}


@dataclass(slots=True)
class _Trace:
    """One forward pass: each run of a submodule in the order in which they ended, and what the host gave."""

    runs: list[_ModuleRun] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    error: str = ""
    output: Any = None

    def of(self, name: str) -> list[_ModuleRun]:
        return [run for run in self.runs if run.name == name]


@dataclass(frozen=True, slots=True)
class _ModuleRun:
    name: str
    inputs: Tensor | None
    output: Any


class Prober:
    """Looks at a host's places.

    `forward` runs the host on a small batch, `quiet` makes every pass leave no trace (see `esper.kasmina.sites`).
    """

    def __init__(
        self, host: nn.Module, forward: Callable[[], object], quiet: Callable[[], Any], depth_places: dict[str, str]
    ) -> None:
        self._host = host
        self._forward = forward
        self._quiet = quiet
        self._depth_places = depth_places
        self._modules: dict[str, nn.Module] = dict(host.named_modules())
        self._plain = self._run()

    def describe(self, producer: str, consumer: str, head_size: int = 0) -> tuple[str, tuple[int, ...], WidthPlace]:
        """Kind and shape of what the producer gives, and the place; raises InvalidInput for what stands in the way.

        With a `head_size` the producer gives queries, keys and values of heads with so many features.
        """
        self._where = f"width site {producer!r} with consumer {consumer!r}"
        for name, role in ((producer, "producer"), (consumer, "consumer")):
            self._check_layer(name, role)
        source, target = self._only_run(producer), self._only_run(consumer)
        order = [run.name for run in self._plain.runs]
        if order.index(consumer) < order.index(producer):
            raise self._refusal(f"{consumer} runs before {producer}; name the layer that takes its units in")
        sections = self._sections(producer, head_size)
        norms = self._norms_between(producer, consumer)
        layer = _layer_kind(self._modules[producer])
        kind = None if layer is None else _KINDS.get((layer, source.output.dim()))
        if kind is None:
            raise self._refusal(f"{producer} gives a tensor of shape {tuple(source.output.shape)}, batch first")
        place = WidthPlace(consumer=consumer, norms=norms, group=head_size or self._group(norms), sections=sections)
        wide, added = self._try_wider(producer, place)
        each = self._check_wide(producer, consumer, wide, added)
        shape = tuple(source.output.shape[1:])
        place.between.extend(self._widened(wide))
        place.running.extend(getattr(self._modules[name], "track_running_stats", False) for name in norms)
        place.outgoing.append(0)
        place.outgoing.append(each)
        rows, samples = len(self._weight(producer)), len(source.output)
        place.positions.append(source.output.numel() // (rows * samples))
        place.positions.append(target.output.numel() // (len(self._weight(consumer)) * samples))
        fill_place(self._host, producer, place)
        return kind, shape if len(shape) != 2 or kind == "token" else (*shape, 1), place

    def position(self, producer: str, producers: Sequence[str]) -> int:
        """Where the producer comes among the producers, in the order in which they run; 0 is first."""
        return [run.name for run in self._plain.runs if run.name in producers].index(producer)

    # ------------------------------------------------------------------------------------------------ what is looked at

    def _check_layer(self, name: str, role: str) -> None:
        module = self._modules.get(name)
        if module is None:
            raise self._refusal(f"there is no submodule {name!r} in {type(self._host).__name__}")
        kind = _layer_kind(module)
        if kind is None or "weight" not in module._parameters:  # noqa: SLF001 - a parametrised weight is none
            told = f"{name} is a {type(module).__name__}; a {role} is a plain nn.Linear, nn.Conv1d or nn.Conv2d"
            if isinstance(module, nn.MultiheadAttention):
                told = (
                    f"{name} is an nn.MultiheadAttention, whose heads share out its embedding, so more of that size "
                    "have no room; heads grow in attention with a linear layer of its own for queries, keys and values"
                )
            raise self._refusal(told)
        if getattr(module, "groups", 1) != 1:
            raise self._refusal(f"{name} has {module.groups} groups; a {role} has one")
        self._check_own(name)

    def _check_own(self, name: str) -> None:
        """A module that a place changes belongs to it alone."""
        module = self._modules[name]
        own = {id(tensor) for tensor in module.parameters(recurse=False)}
        others = [
            path
            for path, tensor in self._host.named_parameters(remove_duplicate=False)
            if id(tensor) in own and path.rpartition(".")[0] != name
        ]
        if others:
            raise self._refusal(f"{name} shares its weights with {others[0]}")

    def _sections(self, producer: str, head_size: int) -> int:
        """What the place says: three where the units are features of heads, and nothing for any other."""
        if not head_size:
            return 0
        rows = len(self._weight(producer))
        if head_size < 0 or not isinstance(self._modules[producer], nn.Linear) or rows % (3 * head_size):
            raise self._refusal(
                f"{producer} is a {type(self._modules[producer]).__name__} of {rows} units, and queries, keys and "
                f"values of heads with {head_size} features are a linear layer of a multiple of {3 * head_size}"
            )
        return 3

    def _only_run(self, name: str) -> _ModuleRun:
        runs = self._plain.of(name)
        if len(runs) != 1:
            raise self._refusal(f"{name} runs {len(runs)} times in a forward pass; it must run once")
        return runs[0]

    def _norms_between(self, producer: str, consumer: str) -> list[str]:
        """The norms whose input changes with what the producer gives, in the order in which they run."""
        units = len(self._weight(producer))
        with _added_noise(self._modules[producer]):
            nudged = self._run()
        found = []
        for before, after in zip(_until(self._plain, consumer), _until(nudged, consumer), strict=False):
            module = self._modules[before.name]
            if not isinstance(module, NORMS) or before.inputs is None or after.inputs is None:
                continue
            if before.inputs.shape[1] != units or torch.equal(before.inputs, after.inputs):
                continue
            self._check_norm(before.name, module)
            found.append(before.name)
        return found

    def _check_norm(self, name: str, norm: Any) -> None:
        self._only_run(name)
        self._check_own(name)
        if norm.weight is None or norm.bias is None:
            raise self._refusal(f"{name} has no weight and bias of its own; make it affine")

    def _group(self, norms: Sequence[str]) -> int:
        modules = [self._modules[name] for name in norms]
        sizes = [norm.num_channels // norm.num_groups for norm in modules if isinstance(norm, nn.GroupNorm)]
        return math.lcm(*sizes) if sizes else 1

    # -------------------------------------------------------------------------------------------------------- the trial

    def _try_wider(self, producer: str, place: WidthPlace) -> tuple[_Trace, int]:
        """The host with more units whose outgoing weights are zero, and how many they are."""
        consumer, sections = place.consumer, max(1, place.sections)
        units = len(self._weight(producer)) // sections
        added = place.group * (units // place.group + 1)  # so that no reshape fits by chance
        weights = self._trial_weights(self._weight(producer), place.norms, added, sections)

        def source() -> Weights:
            return weights

        def columns(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            target = self._weight(consumer)
            more = max(0, inputs[0].shape[_axis(self._modules[consumer])] - target.shape[1])
            weights["consumer_weight"] = target.new_zeros(len(target), more, *target.shape[2:])

        widening = Widening(self._host, SiteDescription(site=producer, width=place), source)
        handle = self._modules[consumer].register_forward_pre_hook(columns)
        try:
            return self._run(), added
        finally:
            handle.remove()
            widening.remove()

    def _trial_weights(self, like: Tensor, norms: Sequence[str], added: int, sections: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device=like.device, dtype=like.dtype)

        rows = sections * added
        weights = {"producer_weight": drawn(rows, *like.shape[1:]), "producer_bias": drawn(rows)}
        for number, name in enumerate(norms):
            weights[f"norm_{number}_weight"] = like.new_ones(added)
            weights[f"norm_{number}_bias"] = drawn(added)
            if getattr(self._modules[name], "running_mean", None) is not None:
                weights[f"norm_{number}_mean"] = like.new_zeros(added)
                weights[f"norm_{number}_var"] = like.new_ones(added)
        return weights

    def _check_wide(self, producer: str, consumer: str, wide: _Trace, added: int) -> int:
        """How many inputs of the consumer one unit is; raises InvalidInput where the trial was not the host."""
        first = self._first_difference(producer, consumer, wide)
        if wide.error:
            culprit = self._named(wide.unfinished[-1] if wide.unfinished else "")
            elsewhere = f"; what {producer} gives is used elsewhere than by {consumer}" if wide.of(consumer) else ""
            raise self._refusal(f"{first or culprit} stands in the way: {wide.error}{elsewhere}")
        narrow, now = self._only_run(consumer), wide.of(consumer)[0]
        assert narrow.inputs is not None and now.inputs is not None  # noqa: PT018
        axis = _axis(self._modules[consumer])
        more = now.inputs.shape[axis] - narrow.inputs.shape[axis]
        if more <= 0 or more % added:
            raise self._refusal(f"{first or f'what {consumer} gets'} does not grow with the units of {producer}")
        if not _same(now.inputs.narrow(axis, 0, narrow.inputs.shape[axis]), narrow.inputs):
            what = first or "a function between them, such as a softmax or a normalisation,"
            raise self._refusal(f"{what} mixes the units, or does not keep the first ones first")
        outputs = zip(tree_leaves(self._plain.output), tree_leaves(wide.output), strict=True)
        tensors = [pair for pair in outputs if isinstance(pair[0], Tensor)]
        if not all(before.shape == after.shape and _same(after, before) for before, after in tensors):
            raise self._refusal(f"what {producer} gives is used elsewhere than by {consumer}, such as by a skip")
        return int(more // added)

    def _first_difference(self, producer: str, consumer: str, wide: _Trace) -> str:
        """The first module between the two that does not give what it gave, units left out that are new."""
        began = False
        for before, after in zip(_until(self._plain, consumer), _until(wide, consumer), strict=False):
            if before.name != after.name:
                break
            alike = not began or _prefix(before.output, after.output)
            began = began or before.name == producer
            if not alike:
                return self._named(before.name)
        return ""

    def _weight(self, name: str) -> Tensor:
        return self._modules[name].get_parameter("weight")

    def _named(self, name: str) -> str:
        return f"{name} ({type(self._modules[name]).__name__})" if name else f"the {type(self._host).__name__} itself"

    def _widened(self, wide: _Trace) -> list[str]:
        """The seed ids of the depth places whose activation is another shape now."""
        before, after = ({run.name: run.output for run in trace.runs} for trace in (self._plain, wide))
        return [
            seed_id
            for name, seed_id in self._depth_places.items()
            if isinstance(before[name], Tensor) and before[name].shape != after[name].shape
        ]

    def _refusal(self, why: str) -> InvalidInput:
        return InvalidInput(f"{self._where}: {why}")

    def _run(self) -> _Trace:
        trace = _Trace()

        def before(name: str) -> Callable[[nn.Module, Any], None]:
            return lambda _module, _inputs: trace.unfinished.append(name)

        def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
                trace.unfinished.remove(name)
                first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
                trace.runs.append(_ModuleRun(name, _kept(first), _kept(output)))

            return hook

        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_pre_hook(before(name)).remove)
                stack.callback(module.register_forward_hook(after(name)).remove)
            stack.enter_context(self._quiet())
            try:
                trace.output = self._forward()
            except Exception as error:  # noqa: BLE001 - of a person's model, anything
                trace.error = f"{type(error).__name__}: {error}".splitlines()[0]
        return trace


def fill_place(host: nn.Module, producer: str, place: WidthPlace) -> None:
    """Set what follows from the host's layers as they are now: units, shapes of weights, cost of a unit.

    The consumer's inputs of one unit, the positions and the norms stay what the place says.
    """
    source, target = host.get_submodule(producer), host.get_submodule(place.consumer)
    assert isinstance(source, LAYERS) and isinstance(target, LAYERS)  # noqa: PT018
    each = place.outgoing[1]
    sections = max(1, place.sections)
    place.units = source.weight.shape[0] // sections
    place.incoming[:] = source.weight.shape[1:]
    place.bias = source.bias is not None
    place.outgoing[:] = [target.weight.shape[0], each, *target.weight.shape[2:]]
    into, out_of = sections * math.prod(place.incoming), math.prod(place.outgoing)
    place.parameters_per_unit = into + sections * place.bias + 2 * len(place.norms) + out_of
    products = 2 * place.positions[0] ** 2 if sections > 1 else 0  # of queries and keys, of their shares and values
    place.flops_per_unit = 2 * (into * place.positions[0] + out_of * place.positions[1] + products)


def _layer_kind(module: nn.Module) -> type[nn.Module] | None:
    """Which of the layers it is that compute as PyTorch's do; None for any other."""
    return next((kind for kind in LAYERS if type(module).forward is kind.forward), None)


def _axis(layer: nn.Module) -> int:
    """The axis of its input that counts units."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _until(trace: _Trace, name: str) -> Iterator[_ModuleRun]:
    for run in trace.runs:
        if run.name == name:
            return
        yield run


def _kept(value: Any) -> Any:
    """A copy of a tensor, because what follows may work in place."""
    return value.detach().clone() if isinstance(value, Tensor) else value


@contextmanager
def _added_noise(module: nn.Module) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + torch.randn(output.shape, generator=generator).to(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _prefix(before: Any, after: Any) -> bool:
    """Whether `after` begins with `before` along the one axis in which their shapes differ; not a tensor: True."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return True
    if before.dim() != after.dim():
        return False
    differ = [axis for axis in range(before.dim()) if before.shape[axis] != after.shape[axis]]
    if len(differ) > 1 or any(after.shape[axis] < before.shape[axis] for axis in differ):
        return False
    return _same(after.narrow(differ[0], 0, before.shape[differ[0]]) if differ else after, before)


def _same(now: Tensor, before: Tensor) -> bool:
    """Whether two activations are the same but for rounding: a wider product may sum in another order."""
    if not before.is_floating_point():
        return torch.equal(now, before)
    if not before.numel():
        return True
    size = float(before.abs().max())
    return bool(((now - before).abs() <= math.sqrt(torch.finfo(before.dtype).eps) * (size + 1e-6)).all())
