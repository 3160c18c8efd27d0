"""Kasmina's state as tensors and JSON scalars, enough to restore every slot bit for bit, structure included.

Figures that describe this machine (kernel latencies) and the times of isolation violations (a clock that another
process does not share) are no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypedDict

from torch import Tensor, nn

from esper.errors import CorruptState
from esper.kasmina.blending import Blend
from esper.kasmina.gates import Impact, Paired
from esper.kasmina.probe import Loss
from esper.kasmina.randomness import Stream
from esper.kasmina.seed import Seed, Slot

VERSION: Final = 1
_SLOT_FIELDS: Final = ("stage", "stage_epochs", "stage_steps", "life", "culls", "fossils", "violations", "alpha")
_SEED_FIELDS: Final = ("ramp_step", "training_steps", "forward_errors", "nonfinite_losses", "side_loss")
_SEED_FIGURES: Final = ("gradient_norm", "output_ratio")

Rebuild = Callable[[Slot, str, Mapping[str, float], int, str], tuple[nn.Module, Stream]]
"""A seed's module and stream from its slot, blueprint, settings, life, and what is wrong with its kernel."""


class KasminaState(TypedDict):
    """`scalars` is JSON, `tensors` has flat names such as `s1.module.0.weight`; both are copies."""

    scalars: dict[str, Any]
    tensors: dict[str, Tensor]


def dump_slot(slot: Slot, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The slot's scalars; its tensors are added to `tensors` under names that begin with its id."""
    scalars: dict[str, Any] = {name: getattr(slot, name) for name in _SLOT_FIELDS}
    seed = slot.seed
    if seed is None:
        return scalars | {"seed": None}
    for name, tensor in seed.module.state_dict().items():
        tensors[f"{slot.seed_id}.module.{name}"] = tensor.detach().clone()
    for number, state in enumerate(seed.stream.states):
        tensors[f"{slot.seed_id}.stream.{number}"] = state.clone()
    if seed.before is not None:
        tensors[f"{slot.seed_id}.before"] = seed.before.per_sample.clone()
    return scalars | {
        "seed": {name: getattr(seed, name) for name in _SEED_FIELDS}
        | {name: float(getattr(seed, name)) for name in _SEED_FIGURES}
        | {
            "blueprint_id": seed.blueprint_id,
            "parameters": dict(seed.parameters),
            "blend": asdict(seed.blend),
            "impact": None if seed.impact is None else asdict(seed.impact),
        }
        # Only where there is something to say: digests of all other states stay what they were.
        | ({"trouble": seed.trouble} if seed.trouble else {})
        | ({"compiled": seed.compiled_ref} if seed.compiled_ref else {})
    }


def load_slot(slot: Slot, scalars: Mapping[str, Any], tensors: Mapping[str, Tensor], rebuild: Rebuild) -> None:
    """Put the slot into a dumped state; the caller sets its hook afterwards.

    A module of the same blueprint and life is kept and filled, so that parameters stay the objects that an optimiser
    holds; any other is built anew. Raises CorruptState where a tensor is missing or does not fit.
    """
    same = _same_seed(slot, scalars)
    slot.stage = scalars["stage"]
    kept = slot.seed
    slot.empty()
    for name in _SLOT_FIELDS[1:-1]:
        setattr(slot, name, scalars[name])
    slot.set_alpha(scalars["alpha"])
    if scalars["seed"] is not None:
        slot.seed = _load_seed(slot, scalars["seed"], tensors, rebuild, kept if same else None)


def _same_seed(slot: Slot, scalars: Mapping[str, Any]) -> bool:
    seed, wanted = slot.seed, scalars["seed"]
    if seed is None or wanted is None or slot.life != scalars["life"]:
        return False
    return bool(seed.blueprint_id == wanted["blueprint_id"] and seed.parameters == wanted["parameters"])


def _load_seed(
    slot: Slot, scalars: Mapping[str, Any], tensors: Mapping[str, Tensor], rebuild: Rebuild, kept: Seed | None
) -> Seed:
    prefix = f"{slot.seed_id}."
    trouble = scalars.get("trouble", "")
    module, stream = (
        rebuild(slot, scalars["blueprint_id"], scalars["parameters"], slot.life, trouble)
        if kept is None
        else (kept.module, kept.stream)
    )
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    weights = {name.removeprefix("module."): tensor for name, tensor in own.items() if name.startswith("module.")}
    try:
        module.load_state_dict(weights)
        stream.states = [own[f"stream.{number}"].cpu().clone() for number in range(len(stream.states))]
    except (KeyError, RuntimeError) as error:
        raise CorruptState(
            f"the saved state of {slot.seed_id} does not fit {scalars['blueprint_id']}: {error}"
        ) from None
    blend = scalars["blend"]
    seed = Seed(
        blueprint_id=scalars["blueprint_id"],
        parameters=dict(scalars["parameters"]),
        module=module,
        blend=Blend(**(blend | {"channel": tuple(blend["channel"])})),
        stream=stream,
        before=Loss.of(own["before"]) if "before" in own else None,
        impact=_impact(scalars["impact"]),
        trouble=trouble,
        compiled_ref=scalars.get("compiled", ""),
    )
    if kept is not None and kept.compiled_ref == seed.compiled_ref:
        seed.compiled = kept.compiled
    for name in (*_SEED_FIELDS, *_SEED_FIGURES):
        setattr(seed, name, scalars[name])
    return seed


def _impact(scalars: Mapping[str, Any] | None) -> Impact | None:
    if scalars is None:
        return None
    return Impact(Paired(**scalars["contribution"]), Paired(**scalars["change"]), scalars["loss_now"])
