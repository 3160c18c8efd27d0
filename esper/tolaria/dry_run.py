"""One batch, once, before anything starts: what a person brings is tried, and what does not fit is told with its line.

Nothing is refused for how it looks. The batch goes through the model and its loss, forward and back; only where that
fails, or comes to no number, is it asked why. So a float64 model with float64 data, or missing values that a model
knows how to handle, are nobody's mistake. The model, its gradients and every random stream are afterwards what they
were before; what a person's code keeps elsewhere, such as a counter of its own, is not looked after.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from esper.errors import EsperError, InvalidInput
from esper.kasmina.sites import describe_sites, device_of, evaluating
from esper.tolaria.data import Samples, every_stream_kept
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.own_code import Place, defined_at, raised, raised_at, told
from esper.tolaria.own_parts import try_factories
from esper.tolaria.tasks.task import CHUNK, Task

_WORDS: Final = {
    torch.float64: ("Double", "double"),
    torch.float32: ("Float", "float"),
    torch.float16: ("Half", "half"),
    torch.bfloat16: ("BFloat16", "bfloat16"),
    torch.int64: ("Long", "long"),
    torch.int32: ("Int", "int"),
    torch.int16: ("Short", "short"),
    torch.int8: ("Char", "char"),
    torch.uint8: ("Byte", "byte"),
    torch.bool: ("Bool", "bool"),
}
"""What torch calls a type in its messages."""


def dry_run(
    model: nn.Module,
    given: Mapping[str, Any],
    loss: Callable[[], Tensor],
    *,
    per_sample: Mapping[str, Callable[[], Tensor]] = MappingProxyType({}),
    samples: int | None = None,
    where: Place | None = None,
    loss_name: str = "loss",
) -> None:
    """Run one batch through `model` and its loss, forward and back, and raise InvalidInput where that does not work.

    `given` is the batch by what the person calls it, such as {"batch": batch} or {"inputs": x, "targets": y}, each of
    any nested structure; where it is empty, the variables that the closure names. `loss` is the closure of a step: it
    gives a scalar that has a gradient. Each of `per_sample`, by its name, gives one figure for each sample, in
    evaluation mode: a tensor of `samples` values where their number is known. `where` is the call that the person made;
    an argument's line is looked up in it, the loss's as `loss_name` where the closure is not the person's own.

    A message begins with the line of the person's own file that it is about. Afterwards buffers, gradients, training
    flags and the random streams of torch, NumPy and Python are as they were.
    """
    trial = _Trial(model, given or variables_of(loss), where, loss_name)
    with unchanged(model), warnings.catch_warnings(action="ignore"):  # training says them again
        trial.step(loss)
        for name, figures in per_sample.items():
            trial.figures(name, figures, samples)


@contextmanager
def explained(model: nn.Module, part: Callable[..., Any], what: str, where: Place | None) -> Iterator[None]:
    """Within, whatever a person's `part` raises becomes InvalidInput as `dry_run` tells it, with its line.

    `what` it is called, and is the argument of the call `where`. An InvalidInput gets that line where it has none.
    """
    trial = _Trial(model, variables_of(part), where, what)
    try:
        yield
    except EsperError as error:
        place = where.argument("sites" if "site" in str(error) else what) if where is not None else None
        if place is None or str(error).startswith(f"{place.file}:") or not isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{place}: {error}") from error
    except Exception as error:
        if raised_at(error) is None or fault_of_machine(error):
            raise
        raise trial.wrong(error, what) from error


def variables_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What a person's function names and does not define: the tensors, arrays and collections among it, by name."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    named = {name: vars_ for name, vars_ in getattr(function, "__globals__", {}).items() if name in code.co_names}
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            named[name] = cell.cell_contents
    return {
        name: value for name, value in named.items() if isinstance(value, Tensor | np.ndarray | Mapping | list | tuple)
    }


def try_task(task: Task, device: torch.device, batch_size: int | None = None) -> None:
    """Make the task's host and try one batch, its figures and its sites; raises InvalidInput as `dry_run` does.

    Samples that hold a number that is not finite are in that batch, so that none is met later.
    """
    count = min(batch_size or task.batch_size, len(task.train))
    task, where = task.to(device), task.place
    with every_stream_kept(device):
        host = _host_of(task, device)
        try_factories(task, host)
        batch = task.train.take(_worst_rows(task.train)[:count])
        probe = task.probe.take(_worst_rows(task.probe)[: min(count, CHUNK)])
        dry_run(
            host,
            {"inputs": batch.inputs, "targets": batch.targets},
            lambda: task.per_sample_loss(host(batch.inputs), batch.targets).mean(),
            where=where,
            loss_name="per_sample_loss",
        )
        figures = {"per_sample_loss": task.per_sample_loss} | (
            {} if task.own_accuracy is None else {"per_sample_accuracy": task.own_accuracy}
        )
        figures |= {f"metric {each.name}": each.per_sample for each in task.metrics if each.per_sample is not None}
        dry_run(
            host,
            {"inputs": probe.inputs, "targets": probe.targets},
            lambda: task.per_sample_loss(host(probe.inputs), probe.targets).mean(),
            per_sample={
                name: lambda figure=figure: figure(host(probe.inputs), probe.targets)  # type: ignore[misc]
                for name, figure in figures.items()
            },
            samples=len(probe),
            where=where,
            loss_name="per_sample_loss",
        )
        try:
            describe_sites(host, task.sites, batch.inputs, lambda _site: [])
        except InvalidInput as error:
            raise InvalidInput(f"{_at(where, 'sites')}{error}") from None


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """A context after which the model's buffers, gradients and flags are as before, and all random streams."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    flags = [(module, module.training) for module in model.modules()]
    try:
        with every_stream_kept(device_of(model)):
            for parameter, _ in gradients:
                parameter.grad = None
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, flag in flags:
            module.training = flag


class _Trial:
    """One batch on its way, with what to say of whatever goes wrong."""

    def __init__(self, model: nn.Module, given: Mapping[str, Any], where: Place | None, loss_name: str) -> None:
        self._model = model
        self._loss_name = loss_name
        self._where = where
        self._given = given
        self._near = ""

    @cached_property
    def _leaves(self) -> list[tuple[str, str, Any]]:
        """Each leaf of the batch with its name and path: looked at where something is wrong, for it may be large."""
        return [
            (name, name + keystr(path), leaf)
            for name, value in self._given.items()
            for path, leaf in tree_flatten_with_path(value)[0]
        ]

    def step(self, loss: Callable[[], Tensor]) -> None:
        """Forward and back once; raises InvalidInput."""
        self._model.train()
        found = self._called(loss, "the loss")
        at = self._near = _at(defined_at(loss)) or _at(self._where, self._loss_name)
        if not isinstance(found, Tensor):
            raise InvalidInput(f"{at}the loss is a {type(found).__name__}; give the tensor itself, without .item()")
        if found.numel() != 1:
            raise InvalidInput(
                f"{at}the loss has shape {tuple(found.shape)}; a step lowers one number: take its .mean()"
            )
        if not bool(torch.isfinite(found)):
            raise InvalidInput(self._not_finite(loss, found, at))
        if not found.requires_grad:
            raise InvalidInput(
                f"{at}the loss has no gradient; the model must run without no_grad and its output stay attached"
            )
        self._called(lambda: found.sum().backward(), "the backward pass")  # type: ignore[no-untyped-call]
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None and bool(torch.isnan(parameter.grad).any()):
                raise InvalidInput(
                    f"{self._blamed() or at}the loss of the first batch is {float(found.detach()):.4g} and the "
                    f"gradient of {name} is not a number; look for a root, a logarithm or a division at 0"
                )

    def figures(self, name: str, figures: Callable[[], Tensor], samples: int | None) -> None:
        """One figure for each sample; raises InvalidInput."""
        with evaluating(self._model), torch.no_grad():
            found = self._called(figures, name)
        at = _at(self._where, name) or _at(defined_at(figures))
        if not isinstance(found, Tensor):
            raise InvalidInput(f"{at}{name} gives a {type(found).__name__}; it must give a tensor, one figure a sample")
        way_out = "with reduction='none' and .flatten(1).mean(1) a loss of torch gives one figure for each sample"
        if found.dim() == 0:
            of = f"{samples} samples" if samples is not None else "all samples"
            raise InvalidInput(f"{at}{name} gives one number for {of}, and needs one for each; {way_out}")
        if samples is not None and found.numel() != samples:
            raise InvalidInput(
                f"{at}{name} gives a tensor of shape {tuple(found.shape)} for {samples} samples, and needs one figure "
                f"for each: do outputs and targets have one shape? {way_out}"
            )
        if not bool(torch.isfinite(found).all()):
            raise InvalidInput(f"{self._blamed() or at}{name} is not finite for every sample")

    def _called(self, part: Callable[[], Any], what: str) -> Any:
        try:
            return part()
        except EsperError:
            raise
        except Exception as error:  # of a person's model or loss, anything
            if fault_of_machine(error):
                raise
            raise self.wrong(error, what) from error

    def wrong(self, error: Exception, what: str) -> InvalidInput:
        """What to say of an error of a person's own code, with the line of what was given wrong where that is known."""
        name, hint = self._why(error)
        place = (self._argument(name) if name else "") or _at(raised_at(error) or self._where)
        error_told = raised(error, raised_at(error))
        return InvalidInput(place + (f"{hint} ({error_told})" if hint else f"{what} fails with {error_told}"))

    def _argument(self, name: str) -> str:
        """The line of an argument of the person's call; empty where it has none of that name."""
        if self._where is None or self._where.argument(name) == self._where:
            return ""
        return _at(self._where, name)

    def _why(self, error: Exception) -> tuple[str, str]:
        """The name of what was given wrong and what to do about it; empty where the batch is not to blame."""
        text = str(error)
        computes = {each.dtype for each in self._model.parameters() if each.is_floating_point()} or {torch.float32}
        wanted = min(computes, key=str)
        for name, path, leaf in self._leaves:
            if isinstance(leaf, np.ndarray):
                return name, f"{path} is a NumPy array of {leaf.dtype}; give torch.from_numpy(...){_as(leaf, wanted)}"
        if not any(word in text for word in ("dtype", "type", "not implemented for")):
            return "", ""
        tensors = [(name, path, leaf) for name, path, leaf in self._leaves if isinstance(leaf, Tensor)]
        for name, path, leaf in tensors:
            if leaf.is_floating_point() and leaf.dtype not in computes:
                return name, (
                    f"{path} is {_short(leaf.dtype)} and {type(self._model).__name__} computes in {_short(wanted)}; "
                    f"give {path}.to({wanted})"
                )
        got = re.split("but (?:got|found)", text)[-1]  # what stands before is what was wanted
        named = [each for each in tensors if any(word in got for word in _WORDS.get(each[2].dtype, ()))]
        for name, path, leaf in named:
            if not leaf.is_floating_point() and leaf.dtype != torch.int64 and ("Long" in text or "Int" in text):
                return name, f"{path} is {_short(leaf.dtype)} and classes and indices are int64; give {path}.long()"
        for name, path, leaf in named:
            if not leaf.is_floating_point():
                return name, f"{path} is {_short(leaf.dtype)} and floats are needed there; give {path}.float()"
        wants_classes = "Long" in text and "Long" not in got
        return "", "classes and indices are int64; give .long()" if wants_classes else ""

    def _blamed(self) -> str:
        """The first of the batch that holds a number that is not finite, with its line; empty where all are."""
        for name, path, leaf in self._leaves:
            values = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf
            if not isinstance(values, Tensor) or not values.is_floating_point():
                continue
            wrong = ~torch.isfinite(values)
            if bool(wrong.any()):
                what = "NaN" if bool(torch.isnan(values).any()) else "infinite values"
                at = self._argument(name) or self._near or _at(self._where)
                return (
                    f"{at}{path} holds {what} ({int(wrong.sum())} of {values.numel()} values of this batch); "
                    "fill them in or leave those samples out: "
                )
        return ""

    def _not_finite(self, loss: Callable[[], Tensor], found: Tensor, at: str) -> str:
        said = f"the loss of the first batch is {float(found.detach()):.4g}"
        if blamed := self._blamed():
            return blamed + said
        first: list[str] = []
        with ExitStack() as stack:
            for name, module in self._model.named_modules():

                def look(each: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
                    floats = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
                    if not first and not all(bool(torch.isfinite(leaf).all()) for leaf in floats):
                        first.append(f"{name or 'the model'} ({type(each).__name__})")

                stack.callback(module.register_forward_hook(look).remove)
            loss()
        if first:
            return f"{at}{said}: what {first[0]} gives is not finite, and it is the first"
        return f"{at}{said}, and what the model gives is finite: the loss function does not suit it"


def _host_of(task: Task, device: torch.device) -> nn.Module:
    try:
        host = task.make_host()
    except EsperError:
        raise
    except Exception as error:  # of a person's code, anything
        raise InvalidInput(f"{_at(raised_at(error) or task.place)}make_host fails with {told(error)}") from error
    if not isinstance(host, nn.Module):
        raise InvalidInput(
            f"{_at(task.place, 'make_host')}make_host gives a {type(host).__name__}; it must make an nn.Module"
        )
    return host.to(device)


def _worst_rows(samples: Samples) -> Tensor:
    """The indices of all samples, those first that hold a number that is not finite; their order is kept otherwise."""
    finite = torch.ones(len(samples), dtype=torch.bool, device=samples.device)
    for each in samples.leaves:
        if each.is_floating_point():
            finite &= torch.isfinite(each).flatten(1).all(dim=1) if each.dim() > 1 else torch.isfinite(each)
    return torch.argsort(finite.to(torch.uint8), stable=True)


def _at(place: Place | None, argument: str = "") -> str:
    """The beginning of a message: FILE:LINE, and nothing where no line is known."""
    if place is None:
        return ""
    return f"{place.argument(argument) if argument else place}: "


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _as(array: np.ndarray[Any, Any], wanted: torch.dtype) -> str:
    """What makes a tensor of an array what a model takes in."""
    if array.dtype.kind == "f":
        return "" if str(array.dtype) == _short(wanted) else f".to({wanted})"
    return "" if array.dtype == np.int64 else ".long()"
