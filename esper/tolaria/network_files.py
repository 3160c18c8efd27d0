"""A run's network as files that need no Esper: weights with a readable manifest, source code, programs to run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import InvalidInput
from esper.karn.table import find
from esper.kasmina import lifecycle
from esper.tolaria.grown_source import arguments_of, batches, following, source_of
from esper.tolaria.state import FlatState, unflatten

FORMAT: Final = 1
FORMS: Final = (".safetensors", ".py", ".pt2", ".onnx")
"""What a file's name may end with: weights, source code, `torch.export`, ONNX."""
OPSET: Final = 20
_METADATA: Final = "network"


@dataclass(frozen=True, slots=True)
class Growth:
    """One seed in the network: behind the submodule `at`, or units in that layer whose outputs `into` takes in."""

    seed: str
    at: str
    into: str
    units: int
    blueprint: str
    name: str
    stage: str
    alpha: float

    def __str__(self) -> str:
        where = f"{self.units} units of {self.at}" if self.units else f"behind {self.at}"
        alpha = "" if self.alpha == 1.0 else f" at alpha {self.alpha:g}"
        return f"{self.seed}: {self.name} ({self.blueprint}), {where}, {self.stage}{alpha}"


def growths(flat: FlatState, sites: Sequence[SiteDescription]) -> list[Growth]:
    """What grew in the network of a state, what the host absorbed first; `sites` are those that the run began with."""
    scalars = unflatten(flat)["kasmina"]["scalars"]
    places = {site.seed_id: site for site in sites}
    found, opened = [], len(sites)
    for seed_id, units in scalars.get("absorbed", ()):
        place, opened = places[seed_id], opened + 1
        places[f"s{opened}"] = place
        blueprint = find(scalars["slots"][seed_id]["absorbed"])
        named = (blueprint.blueprint_id, blueprint.name, lifecycle.name(lifecycle.FOSSILIZED), 1.0)
        found.append(Growth(seed_id, place.site, place.width.consumer, int(units), *named))
    for seed_id, slot in scalars["slots"].items():
        if slot["seed"] is None or slot["stage"] not in lifecycle.MIXED:
            continue
        place, blueprint = places[seed_id], find(slot["seed"]["blueprint_id"])
        named = (blueprint.blueprint_id, blueprint.name, lifecycle.name(slot["stage"]), float(slot["alpha"]))
        units = 0
        if place.HasField("width"):
            rows = unflatten(flat)["kasmina"]["tensors"][f"{seed_id}.module.producer_weight"]
            units = len(rows) // max(1, place.width.sections)
        found.append(Growth(seed_id, place.site, place.width.consumer, units, *named))
    return found


def manifest(network: nn.Module, grew: Sequence[Growth], about: Mapping[str, Any]) -> dict[str, Any]:
    """What a network is, for people and programs: `about`, what grew where, and every tensor of its state."""
    parameters = sum(each.numel() for each in network.parameters())
    of_it = {**about, "network": type(network).__name__, "parameters": parameters}
    return listed(network.state_dict(), grew, of_it)


def listed(tensors: Mapping[str, Tensor], grew: Sequence[Growth], about: Mapping[str, Any]) -> dict[str, Any]:
    """`about`, what grew where, and every one of these tensors."""
    return {
        "format": FORMAT,
        **about,
        "grew": [asdict(each) for each in grew],
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in tensors.items()
        },
    }


def weights(network: nn.Module, described: Mapping[str, Any]) -> bytes:
    """The state dictionary as a safetensors file, as `saved` writes it."""
    return saved(network.state_dict(), described)


def saved(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> bytes:
    """Tensors as a safetensors file, whose metadata has what is `described`, but for the tensors' shapes.

    Tensors that a network has under two names are written twice.
    """
    told = json.dumps({name: value for name, value in described.items() if name != "tensors"})
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, metadata={_METADATA: told})


def source(network: nn.Module, inputs: Any, described: Mapping[str, Any], grew: Sequence[Growth]) -> str:
    """The network as Python source (see `esper.tolaria.grown_source`); `inputs` are a batch of two samples or more."""
    title = f"The network of run {described['run']} at step {described['step']} (epoch {described['epoch']})."
    words = ["What grew in it:", *(f"- {each}" for each in grew)] if grew else ["Nothing grew in it."]
    how = "Its weights: network.load_state_dict(safetensors.torch.load_file(...)), as `esper load` writes them."
    return source_of(network, inputs, title, [*words, "", how])


def program(network: nn.Module, inputs: Any) -> bytes:
    """What `torch.export` makes of it for batches of any size, as a `.pt2` file; needs torch alone.

    Raises InvalidInput where `torch.export` cannot follow the network.
    """
    file, arguments = io.BytesIO(), arguments_of(network, inputs)
    with following(network, "torch.export"):
        torch.export.save(torch.export.export(network, arguments, dynamic_shapes=batches(network, arguments)), file)
    return file.getvalue()


def onnx(network: nn.Module, inputs: Any) -> bytes:
    """The network as ONNX for batches of any size.

    Raises InvalidInput where onnx and onnxscript are not installed, and where torch cannot write the network so.
    """
    try:
        import onnx as _onnx  # noqa: F401, PLC0415 - an extra
        import onnxscript as _onnxscript  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise InvalidInput(f"ONNX needs {error.name}: pip install 'esper-lite[onnx]'") from None
    arguments = arguments_of(network, inputs)
    shapes = batches(network, arguments)
    with following(network, "torch.onnx"):
        made = torch.onnx.export(
            network, arguments, dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, verbose=False, optimize=True
        )
        assert made is not None
        content: bytes = made.model_proto.SerializeToString()
    return content


def some(inputs: Any) -> Any:
    """Two samples of a batch, which is enough to see what a network does."""
    return pytree.tree_map(lambda each: each[:2], inputs)
