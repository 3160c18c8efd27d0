"""`esper sites FILE`: the places of a model where something could grow, found by one forward pass on its first batch.

FILE is a task, or a training script: that is run as `python FILE` does until its model gets its first batch, and no
further. Nothing is trained, written or started.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.output import DIM, say, say_json, styled, table
from esper.cli.run import check_task
from esper.errors import EsperError, InvalidInput
from esper.karn.table import CATALOGUE

if TYPE_CHECKING:
    from torch import nn

    from contracts.leyline.v1.event_pb2 import SiteDescription

FEW: Final = 4
"""Samples that a model is run on again and again, to see where it could become wider."""
NAMED: Final = 3
"""Blueprints that are named of a place; `--json` has all."""
HEADERS: Final = ("site", "layer", "gives", "could grow", "chosen")


@dataclass(frozen=True, slots=True)
class FirstBatch:
    """A model and what it was called with first."""

    model: nn.Module
    arguments: Sequence[Any]
    named: Mapping[str, Any]

    def forward(self) -> Any:
        """Run the model once on it."""
        return self.model(*self.arguments, **self.named)

    def few(self) -> FirstBatch:
        """The same with a few of its samples, where the model can take so few; what is looked at is the same."""
        from torch import Tensor  # noqa: PLC0415 - torch is loaded by now
        from torch.utils._pytree import tree_leaves, tree_map  # noqa: PLC0415

        given = (self.arguments, self.named)
        sizes = {len(leaf) for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and leaf.dim() > 0}
        if len(sizes) != 1:
            return self  # nobody knows which axis counts the samples
        arguments, named = tree_map(lambda leaf: leaf[:FEW] if isinstance(leaf, Tensor) and leaf.dim() else leaf, given)
        return FirstBatch(self.model, arguments, named)


def sites_command(file: str, arguments: Sequence[str], *, everything: bool, as_json: bool) -> None:
    """Print the places of a task's or a script's model; raises InvalidInput where it has none or does not run."""
    from esper.kasmina.sites_auto import propose_sites, propose_wide  # noqa: PLC0415 - imports torch

    first, chosen = _of_script(Path(file), arguments) if file.endswith(".py") else _of_task(file)
    proposals = propose_sites(first.model, first.forward)
    wide = propose_wide(first.model, first.few().forward)
    told = [
        {
            "site": each.module,
            "consumer": "",
            "layer": each.type_name,
            "kind": each.kind,
            "shape": list(each.shape),
            "could_grow": [] if each.why_not else _options(each.module, each.kind, each.shape),
            "why_not": each.why_not or (f"it gives the same tensor as {each.same_as}" if each.same_as else ""),
            "chosen": (each.module, "") in chosen,
        }
        for each in proposals
    ]
    shapes = {each.module: list(each.shape) for each in proposals}
    told += [
        {
            "site": site.module,
            "consumer": site.consumer,
            "layer": type(first.model.get_submodule(site.module)).__name__,
            "kind": site.shape_kind,
            "shape": shapes.get(site.module, []),
            "could_grow": [each.blueprint_id for each in CATALOGUE.values() if each.widens],
            "why_not": "",
            "chosen": (site.module, site.consumer) in chosen,
        }
        for site in wide
    ]
    if as_json:
        say_json(told)
        return
    shown = [each for each in told if everything or each["chosen"] or not each["why_not"]]
    if not shown:
        raise InvalidInput(f"no layer of {type(first.model).__name__} can be a site; --all says why")
    say(table(HEADERS, [_row(each) for each in shown]))
    left_out = len(told) - len(shown)
    more = f"; {left_out} that cannot be sites are left out, --all says why" if left_out else ""
    say(styled(f"{len(shown)} places of {type(first.model).__name__}{more}", DIM))


def _row(told: Mapping[str, Any]) -> tuple[str, ...]:
    into = f" -> {told['consumer']}, wider" if told["consumer"] else ""
    return (
        f"{told['site']}{into}",
        told["layer"],
        f"{told['kind']} {' x '.join(str(size) for size in told['shape'])}".strip(),
        told["why_not"] if told["why_not"] and not told["chosen"] else _named(told["could_grow"]),
        "yes" if told["chosen"] else "",
    )


def _named(blueprint_ids: Sequence[str]) -> str:
    names = [CATALOGUE[each].name for each in blueprint_ids]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "nothing of the default pool") + more


def _options(module: str, kind: str, shape: Sequence[int]) -> list[str]:
    """The ids of the blueprints of the default pool that serve such a place."""
    from contracts.leyline.v1.event_pb2 import SiteDescription  # noqa: PLC0415 - beside torch
    from esper.karn import catalogue  # noqa: PLC0415

    place: SiteDescription = SiteDescription(site=module, seed_id="s1", shape_kind=kind, shape=shape)
    return [option.blueprint_id for option in catalogue.options(place, pool=catalogue.pool(("default",)))]


# ---------------------------------------------------------------------------------------------- where a model is from


def _of_task(name: str) -> tuple[FirstBatch, set[tuple[str, str]]]:
    """A task's host with its first batch, and the sites that the task names."""
    check_task(name)
    from esper.tolaria.tasks import load_task  # noqa: PLC0415 - imports torch

    task = load_task(name)
    inputs = task.train.head(task.batch_size).inputs
    return FirstBatch(task.make_host(), (inputs,), {}), {(site.module, site.consumer) for site in task.sites}


class _Reached(BaseException):
    """The model of a script gets its first batch. No Exception, which a script may catch."""

    def __init__(self, first: FirstBatch, sites: Any) -> None:
        super().__init__()
        self.first = first
        self.sites = sites


def _of_script(path: Path, arguments: Sequence[str]) -> tuple[FirstBatch, set[tuple[str, str]]]:
    """The model of a script with its first batch: what is given to `esper.grow`, or else the first that is called."""
    from esper.tolaria.own_code import told  # noqa: PLC0415 - only here

    if not path.is_file():
        raise InvalidInput(f"{path} is no file; give a training script, or path/to/file.py:function of a task")
    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with _stopping_at_the_first_batch():
            runpy.run_path(str(path), run_name="__main__")
    except _Reached as reached:
        return reached.first, _chosen(reached)
    except EsperError:
        raise
    except (Exception, SystemExit) as error:  # a person's script may raise anything
        raise InvalidInput(f"{path} ended before its model got a batch: {told(error)}") from error
    finally:
        sys.argv, sys.path[:] = before
    raise InvalidInput(f"{path} ran to its end, and no model with parameters was called")


def _chosen(reached: _Reached) -> set[tuple[str, str]]:
    """The places that the script's `esper.grow` takes; none of a script that does not call it."""
    from esper.kasmina.sites_auto import choose_sites  # noqa: PLC0415 - imports torch

    if not reached.sites:
        return set()
    first = reached.first
    return {
        (site.module, site.consumer) for site in choose_sites(first.model, first.forward, reached.sites, tuples=True)
    }


@contextmanager
def _stopping_at_the_first_batch() -> Iterator[None]:
    """Within, the first call of a module with parameters raises _Reached; of `esper.grow`'s, once that was called."""
    import torch  # noqa: PLC0415 - slow
    from torch import nn  # noqa: PLC0415

    import esper  # noqa: PLC0415

    grown: list[nn.Module] = []
    wanted: list[Any] = [()]
    plain: Callable[..., Any] = nn.Module.__call__
    compiling = torch.compile
    grow = vars(esper).get("grow") or getattr(esper, "grow", None)

    def call(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        if (module in grown) if grown else any(True for _ in module.parameters()):
            raise _Reached(FirstBatch(module, arguments, named), wanted[-1])
        return plain(module, *arguments, **named)

    def remember(model: nn.Module, *arguments: Any, **named: Any) -> Any:
        grown.append(model)
        wanted.append(named.get("sites", "auto"))
        return grow(model, *arguments, **named)  # type: ignore[misc]  # it is there where this is called

    def leave(model: Any = None, **_how: Any) -> Any:
        return model if model is not None else (lambda function: function)

    torch.compile = leave  # to be looked at once a model is not worth compiling
    nn.Module.__call__ = call  # type: ignore[method-assign]  # there is no hook that gets named arguments of all modules
    if grow is not None:
        vars(esper)["grow"] = remember
    try:
        yield
    finally:
        torch.compile = compiling
        nn.Module.__call__ = plain  # type: ignore[method-assign]
        if grow is not None:
            vars(esper).pop("grow", None)
