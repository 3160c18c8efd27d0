"""One slot of a site, the seed that lives there now, and saving and restoring it bit for bit, structure included.

Figures that describe this machine (kernel latencies) and the times of isolation violations (a clock that another
process does not share) are no part of the saved state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import CorruptState
from esper.kasmina import lifecycle
from esper.kasmina.blending import Blend
from esper.kasmina.gates import Health, Impact, Leftovers, Loss, Paired, Subject
from esper.kasmina.lifecycle import Stage
from esper.kasmina.sites import Stream
from esper.kasmina.width import Widening

_LATENCIES: Final = 64
"""How many of the last forwards count for a seed's latency."""
STATE_VERSION: Final = 1
"""Of the saved state."""
_SLOT_FIELDS: Final = ("stage", "stage_epochs", "stage_steps", "life", "culls", "fossils", "violations", "alpha")
_SEED_FIELDS: Final = ("ramp_step", "training_steps", "forward_errors", "nonfinite_losses", "side_loss")
_SEED_FIGURES: Final = ("gradient_norm", "output_ratio")
_TOLD: Final = ("held", "hurried")
"""Saved where they are true: digests of all other states stay what they were."""

Form = Callable[[Tensor], Tensor]
"""A seed's forward in another form: the same function of an activation, over the module's own parameters."""


@dataclass(slots=True)
class Seed:
    """What a slot holds while a seed lives there: made when it germinates, gone when it is culled."""

    blueprint_id: str
    parameters: dict[str, float]
    module: nn.Module
    blend: Blend
    stream: Stream
    before: Loss | None = None
    """The probe loss when it germinated."""
    compiled: Form | None = None
    """The form that serves in training where there is one; measurements and evaluation are the module's own."""
    compiled_ref: str = ""
    """The artifact that `compiled` is from, or has to be from again after a restore."""
    trouble: str = ""
    """Why its kernel cannot be used; the module is the identity then, and G0 fails."""
    ramp_step: int = 0
    training_steps: int = 0
    forward_errors: int = 0
    nonfinite_losses: int = 0
    side_loss: float = 0.0
    gradient_norm: Tensor | float = 0.0
    output_ratio: Tensor | float = 0.0
    impact: Impact | None = None
    """As of the last epoch end in SHADOWING or PROBATIONARY."""
    change: Paired | None = None
    """`swift`: of the probe loss since it germinated, as of the last epoch end in PROBATIONARY."""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    """Of the last forwards; a measurement of this machine, so not part of the saved state."""

    @property
    def residual(self) -> bool:
        """Whether the module says that it begins as the identity."""
        return bool(getattr(self.module, "residual", False))

    @property
    def size(self) -> int:
        """Trainable parameters, frozen ones included."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def form(self) -> str:
        """Which form serves."""
        return "identity" if self.trouble else "compiled" if self.compiled_ref else "eager"

    @property
    def latency_ms(self) -> float:
        """The quickest of the last forwards, 0 before the first.

        What the module takes, and not what else the machine had to do: on a busy one the median failed good seeds.
        """
        return min(self.latencies_ms, default=0.0)


@dataclass(slots=True)
class Slot:
    """A site's slot. `stage` changes by `enter` alone, so no move goes round the table."""

    description: SiteDescription
    stage: Stage = lifecycle.DORMANT
    stage_epochs: int = 0
    stage_steps: int = 0
    life: int = 0
    culls: int = 0
    fossils: int = 0
    violations: int = 0
    alpha: float = 0.0
    closed: str = ""
    """The blueprint whose proof failed here, after which nothing may grow here any more; empty for an open place."""
    held: bool = False
    """Told to stay in this stage until it is advanced: no gate is judged, no patience ends, and a ramp stands still."""
    hurried: bool = False
    """Told to leave this stage: its dwell counts as over, and its exit gate is judged at the next epoch end."""
    seed: Seed | None = None
    absorbed: str = ""
    """The blueprint of the width seed that is part of the host now; the slot is FOSSILIZED and has no module."""
    hook: RemovableHandle | Widening | None = None
    _alpha_tensor: Tensor | None = None

    @property
    def seed_id(self) -> str:
        """s1, s2, … in site order."""
        return self.description.seed_id

    @property
    def widens(self) -> bool:
        """Whether it is a place where the host itself becomes wider."""
        return self.description.HasField("width")

    @property
    def subject(self) -> Subject:
        """What a gate's verdict is about."""
        return Subject(self.seed_id, self.stage, self.life)

    def occupant(self) -> Seed:
        """The seed that lives here; only for stages that have one."""
        assert self.seed is not None, f"{self.seed_id} is {lifecycle.name(self.stage)} and has no seed"
        return self.seed

    def health(self) -> Health:
        """What every gate asks first."""
        return Health(self.violations, self.occupant().forward_errors)

    def enter(self, stage: Stage) -> None:
        """Move to `stage`; raises IllegalTransition, and changes nothing, where the table has no such move."""
        lifecycle.move(self.stage, stage)
        self.stage = stage
        self.stage_epochs = 0
        self.stage_steps = 0
        self.held = self.hurried = False

    def set_alpha(self, alpha: float) -> None:
        """Mix the seed at `alpha`, from 0 to 1, from the next forward on."""
        assert 0.0 <= alpha <= 1.0
        self.alpha = alpha
        self._alpha_tensor = None

    def alpha_like(self, activation: Tensor) -> Tensor:
        """Alpha as a tensor without axes or gradient: a tensor's value may change without recompiling anything."""
        cached = self._alpha_tensor
        if cached is None or cached.device != activation.device or cached.dtype != activation.dtype:
            cached = torch.tensor(self.alpha, dtype=activation.dtype, device=activation.device)
            self._alpha_tensor = cached
        return cached

    def settle(self, *, frozen: bool) -> None:
        """Make the module's parameters what the stage says: learning, or frozen and without gradient."""
        for parameter in self.occupant().module.parameters():
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None

    def empty(self) -> None:
        """Take the seed out of the network: hook, module and alpha go at once; counters wait for the scrub."""
        self.detach()
        self.seed = None
        self.set_alpha(0.0)

    def detach(self) -> None:
        """Take the seed out of the host's forward pass."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None

    def scrub(self) -> None:
        """Clear what an ended life left behind; `life`, `culls` and `fossils` count lives and stay."""
        self.empty()
        self.violations = 0

    def leftovers(self) -> Leftovers:
        """What G5 judges."""
        seed = self.seed
        tensors = 0 if seed is None else len(seed.module.state_dict()) + (seed.before is not None)
        counters = (
            0 if seed is None else seed.forward_errors + seed.nonfinite_losses + seed.training_steps + seed.ramp_step
        )
        return Leftovers(
            modules=int(seed is not None),
            hooks=int(self.hook is not None),
            tensors=tensors,
            alpha=self.alpha,
            isolation_violations=self.violations,
            counters=counters,
        )


def ramp(step: int, total: int, temperature: float) -> float:
    """Alpha after `step` of `total` steps: a sigmoid stretched to run from exactly 0 to exactly 1, never falling.

    `temperature` is the sigmoid's width as a share of `total`. Raises nothing; steps beyond `total` give 1.
    """
    if step <= 0 or step >= total:
        return float(step > 0)
    low = _sigmoid(-0.5 / temperature)
    value = _sigmoid((step / total - 0.5) / temperature)
    return min(1.0, max(0.0, (value - low) / (1.0 - 2.0 * low)))


def _sigmoid(x: float) -> float:
    """Logistic function that does not overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def readable(parameters: Mapping[str, float]) -> dict[str, float]:
    """A plain, sorted copy of a command's parameters."""
    return {name: float(parameters[name]) for name in sorted(parameters)}


Rebuild = Callable[[Slot, str, Mapping[str, float], int, str], tuple[nn.Module, Stream]]
"""A seed's module and stream from its slot, blueprint, settings, life, and what is wrong with its kernel."""


class KasminaState(TypedDict):
    """`scalars` is JSON, `tensors` has flat names such as `s1.module.0.weight`; both are copies."""

    scalars: dict[str, Any]
    tensors: dict[str, Tensor]


def dump_slot(slot: Slot, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The slot's scalars; its tensors are added to `tensors` under names that begin with its id."""
    scalars: dict[str, Any] = {name: getattr(slot, name) for name in _SLOT_FIELDS}
    if slot.closed:  # only where there is something to say: digests of all other states stay what they were
        scalars["closed"] = slot.closed
    if slot.absorbed:
        scalars["absorbed"] = slot.absorbed
    scalars |= {name: True for name in _TOLD if getattr(slot, name)}
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
        | ({"change": asdict(seed.change)} if seed.change is not None else {})
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
    slot.closed = scalars.get("closed", "")
    slot.absorbed = scalars.get("absorbed", "")
    for name in _TOLD:
        setattr(slot, name, scalars.get(name, False))
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
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    weights = {name.removeprefix("module."): tensor for name, tensor in own.items() if name.startswith("module.")}
    if kept is not None and _shapes(kept.module.state_dict()) != _shapes(weights):
        kept = None  # a seed beside it was absorbed since, or not yet
    module, stream = (
        rebuild(slot, scalars["blueprint_id"], scalars["parameters"], slot.life, trouble)
        if kept is None
        else (kept.module, kept.stream)
    )
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
        change=Paired(**scalars["change"]) if "change" in scalars else None,
        trouble=trouble,
        compiled_ref=scalars.get("compiled", ""),
    )
    if kept is not None and kept.compiled_ref == seed.compiled_ref:
        seed.compiled = kept.compiled
    for name in (*_SEED_FIELDS, *_SEED_FIGURES):
        setattr(seed, name, scalars[name])
    return seed


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _impact(scalars: Mapping[str, Any] | None) -> Impact | None:
    if scalars is None:
        return None
    return Impact(Paired(**scalars["contribution"]), Paired(**scalars["change"]), scalars["loss_now"])
