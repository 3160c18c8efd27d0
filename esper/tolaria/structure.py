"""What grew in a run, as a list of germinations that makes it anew: for a static net that has it from the first step.

Free of torch, so that a configuration can hold it and the command line can read it out of a result or a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import SiteDescription
from contracts.leyline.v1.leyline_pb2 import BlendMode
from esper.errors import CorruptState, InvalidInput
from esper.kasmina.lifecycle import MIXED
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore

MANIFEST_BYTES: Final = 12 * 2**20
"""Of the tree of a checkpoint: everything but the tensors."""
LEAST_FACTOR: Final = 0.25
MOST_FACTOR: Final = 2.0
"""What a `wider_layer` takes as its factor."""
_MODE: Final = "BLEND_MODE_"


@dataclass(frozen=True, slots=True)
class Piece:
    """One seed of a network: where it is, what it is, and how it is blended, as a germinate command says it."""

    seed_id: str
    blueprint_id: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Any) -> Piece:
        """The piece that `dataclasses.asdict` made plain; raises InvalidInput for anything else."""
        try:
            piece = cls(**values)
            parameters = {str(name): float(value) for name, value in piece.parameters.items()}
            annotations = {str(name): str(value) for name, value in piece.annotations.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"the configuration's structure cannot be read: {error}") from None
        return cls(str(piece.seed_id), str(piece.blueprint_id), parameters, annotations)


def structure_of(kasmina: Mapping[str, Any], sites: Sequence[SiteDescription]) -> tuple[Piece, ...]:
    """What is part of the network in a saved state of Kasmina, of which `kasmina` are the scalars.

    What the host absorbed comes first, in its order, because the shapes of all other places follow from it; then every
    seed that is mixed in. `sites` are those that the run began with.
    """
    slots = kasmina["slots"]
    units = {site.seed_id: site.width.units for site in sites}
    pieces, opened = [], len(sites)
    for seed_id, more in kasmina.get("absorbed", ()):
        factor = min(max(more / units[seed_id], LEAST_FACTOR), MOST_FACTOR)  # one unit of five was a quarter, rounded
        pieces.append(Piece(seed_id, slots[seed_id]["absorbed"], {"factor": factor}))
        opened += 1
        units[f"s{opened}"] = units[seed_id] + more
    for seed_id, slot in slots.items():
        if slot["seed"] is not None and slot["stage"] in MIXED:
            seed = slot["seed"]
            pieces.append(Piece(seed_id, seed["blueprint_id"], dict(seed["parameters"]), _annotations(seed["blend"])))
    return tuple(pieces)


def structure_at(objects: ObjectStore, checkpoint_ref: str, sites: Sequence[SiteDescription]) -> tuple[Piece, ...]:
    """The same of a checkpoint; raises InvalidInput where it is missing and CorruptState where it is none."""
    try:
        manifest = parsed(objects.get(checkpoint_ref, MANIFEST_BYTES), MANIFEST_BYTES)
        return structure_of(manifest["state"]["kasmina"]["scalars"], sites)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"object {checkpoint_ref} is no checkpoint: {error}") from None


def _annotations(blend: Mapping[str, Any]) -> dict[str, str]:
    """What `esper.kasmina.blending.blend_from` reads as this blend."""
    name = BlendMode.Name(blend["mode"]).removeprefix(_MODE).lower()
    if name in {"convex", "residual"}:
        return {"blend_mode": name}
    if name == "channel":
        return {"blend_mode": name, "alpha_vec": json.dumps(list(blend["channel"]))}
    limits = {"gate_k": "k", "gate_tau": "tau", "alpha_lo": "lo", "alpha_hi": "hi"}
    site = {"confidence_logits": "site"} if blend["logits"] else {}
    return {"blend_mode": name, **{word: repr(blend[key]) for word, key in limits.items()}, **site}
