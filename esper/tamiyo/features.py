"""What a graph's columns are and how one node's row is made of a state packet. Numbers only, no torch.

Every value that can be absent has a column behind it, its name with `?`, that is 1 where the value is known; an absent
value is 0. Counts and costs are log1p, other figures are shares, signs with a logarithm, or standard deviations, so
that rows of a host of 300 parameters and of 300 million can be compared. No column is of a clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintOption, EpochCompleted, SeedObservation, SiteDescription
from esper.kasmina.lifecycle import ALIVE, FOSSILIZED
from esper.tamiyo import normalizer, registries

LARGEST: Final = 10.0
"""Columns are cut off here: one absurd figure must not drown the others."""

GLOBAL: Final = (
    *("loss_z", "gradient_norm_z", "gradient_norm_z?", "training_loss_z", "training_loss_z?"),
    *("loss", "gap", "accuracy", "accuracy?", "loss_stderr", "change_z", "change?", "trend", "volatility", "trend?"),
    *("progress", "epochs_left", "epochs_since_change", "params_host", "grown_share", "budget_left", "sites", "live"),
    *("kept", "culled", "full", "swift", "direct", "cosine", "wsd", "constant", "decaying", "conservative"),
    *("flops_training", "measuring_share"),
)
SEED: Final = (
    *(
        "dormant",
        "germinated",
        "training",
        "blending",
        "shadowing",
        "probationary",
        "fossilized",
        "culled",
        "embargoed",
    ),
    *("age", "alpha", "life", "culls", "parameters", "gradient_norm", "activation_ratio", "contribution"),
    *("contribution_z", "contribution?", "since_germination", "since_germination?", "gate_ready", "embargo", "leaks"),
    *("closed", "change", "change_z", "change?", "depth", "wider"),
)
BLUEPRINT: Final = (
    *("risk", "safe", "experimental", "high_risk", "stage", "hazard", "hazard?", "handling", "residual"),
    *("parameters", "flops", "kept_share", "kept_share?", "loss_delta", "loss_delta?", "merit"),
)
LAYER: Final = (
    *("vector", "image", "signal", "token", "depth", "channels", "positions", "gradient_share", "activation_norm"),
    *("pull", "descent", "candidate", "candidate?", "evidence?", "wider", "units", "unit_parameters", "rank_share"),
)
ACTIVATION: Final = ("norm", "rank", "rank_share", "dead", "gradient", "evidence?")
PARAMETER: Final = ("count", "share", "gradient_norm", "gradient_norm?", "learning_rate", "learning_rate?", "host")
ACTION: Final = (
    *("parameters", "room_share", "fits", "flops", "risk", "residual", "merit", "place", "pareto", "dominated", "size"),
    *("kept_share", "kept_share?", "loss_delta", "loss_delta?", "sheet", "seed"),
)
EDGE: Final = ("strength", "volume", "known")
"""Of every relation; what the two stand for is said in `esper.tamiyo.graph`."""

NODES: Final[dict[str, tuple[str, ...]]] = {
    "global": GLOBAL,
    "seed": SEED,
    "blueprint": BLUEPRINT,
    "layer": LAYER,
    "activation": ACTIVATION,
    "parameter": PARAMETER,
}
"""The node types and their columns."""


def symlog(value: float) -> float:
    """sign(x) ln(1 + |x|): about x near 0, and a logarithm far from it."""
    return math.copysign(math.log1p(abs(value)), value) if math.isfinite(value) else 0.0


def optional(value: float, known: bool = True) -> tuple[float, float]:  # noqa: FBT001, FBT002
    """A value and its mask; what is not finite is not known."""
    return (value, 1.0) if known and math.isfinite(value) else (0.0, 0.0)


def optional_log(value: float, known: bool = True) -> tuple[float, float]:  # noqa: FBT001, FBT002
    """The `symlog` of a value and its mask."""
    return (symlog(value), 1.0) if known and math.isfinite(value) else (0.0, 0.0)


def whole(state: EpochCompleted, seeds: Sequence[SeedObservation]) -> list[float]:
    """The row of the run as a whole; `seeds` are the packet's."""
    packet = state.state
    norms = normalizer.of_message(state.normalizer)
    loss = packet.validation_loss
    gradient, seen = packet.training_metrics.get("gradient_norm", math.nan), math.isfinite(packet.training_loss)
    epoch, total = packet.current_epoch, max(1, state.epochs_total)
    stages = Counter(seed.stage for seed in seeds)
    live = sum(stages[each] for each in ALIVE)
    grown = max(0, state.params - state.params_host)
    return [
        norms["loss"].score(loss) if math.isfinite(loss) else 0.0,
        *optional(norms["gradient_norm"].score(gradient)),
        *optional(norms["training_loss"].score(packet.training_loss)),
        symlog(loss),
        symlog(packet.training_loss - loss) if seen else 0.0,
        *optional(packet.validation_accuracy),
        symlog(100.0 * state.probe_loss_stderr),
        *_change(state),
        *_trend(state.probe_loss_history),
        epoch / total,
        math.log1p(max(0, total - epoch)),
        math.log1p(state.epochs_since_structural_change),
        math.log1p(state.params_host) / 2.0,
        grown / max(1, state.params),
        max(0.0, state.params_budget - grown) / max(1, state.params_budget),
        math.log1p(len(state.sites)),
        live / max(1, len(seeds)),
        math.log1p(stages[FOSSILIZED]),
        math.log1p(sum(seed.culls for seed in seeds)),
        *(float((state.lifecycle or "full") == each) for each in registries.LIFECYCLES.keys),
        *(float((state.rate_policy or "cosine") == each) for each in registries.SCHEDULES.keys),
        float(0 < state.decay_from_epoch <= epoch or (state.rate_policy or "cosine") == "cosine"),
        float(state.conservative),
        math.log1p(max(0.0, state.flops_training)) / 5.0 if math.isfinite(state.flops_training) else 0.0,
        state.flops_measuring / state.flops if state.flops > 0.0 else 0.0,
    ]


def _change(state: EpochCompleted) -> tuple[float, float]:
    history = state.probe_loss_history
    if len(history) < 2:
        return 0.0, 0.0
    noise = max(state.probe_loss_stderr, 1e-6) if math.isfinite(state.probe_loss_stderr) else 1.0
    return optional_log((history[-1] - history[-2]) / noise)


def _trend(history: Sequence[float]) -> tuple[float, float, float]:
    """Slope of a straight line through the last six losses, the deviation about it, and whether both are known."""
    recent = history[-6:]
    count = len(recent)
    if count < 3 or not all(abs(each) < 1e15 for each in recent):
        return 0.0, 0.0, 0.0
    middle, mean = (count - 1) / 2, math.fsum(recent) / count
    spread = math.fsum((x - middle) ** 2 for x in range(count))
    slope = math.fsum((x - middle) * y for x, y in enumerate(recent)) / spread
    rest = math.fsum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(recent)) / (count - 2)
    return symlog(10.0 * slope), symlog(10.0 * math.sqrt(rest)), 1.0


def layer(site: SiteDescription) -> list[float]:
    """The row of the layer behind which, or in which, a slot is, as far as the site decides it; `seen` has the rest."""
    kind, shape = shape_of(site), site.shape
    channels = shape[0] if len(shape) != 2 else shape[1]
    positions = max(1, math.prod(shape)) // max(1, channels) if shape else 1
    row = dict.fromkeys(LAYER, 0.0) | {each: float(kind == each) for each in registries.SHAPES.keys[:4]}
    row |= {
        "depth": float(site.depth),  # to be divided by the deepest
        "channels": math.log1p(channels) / 2.0,
        "positions": math.log1p(positions) / 2.0,
        "wider": float(site.HasField("width")),
        "units": math.log1p(site.width.units),
        "unit_parameters": math.log1p(site.width.parameters_per_unit),
    }
    return [row[name] for name in LAYER]


def units_of(site: SiteDescription) -> int:
    """The units that the rank of a layer's activation is a share of, 1 at least."""
    return max(1, site.width.units or (site.shape[1] if len(site.shape) == 2 else site.shape[0] if site.shape else 1))


def shape_of(site: SiteDescription) -> str:
    """The kind of a site's shape, where an image of one row or one column is a signal."""
    shape = site.shape
    signal = site.shape_kind == "image" and 1 in shape[1:] and max(shape[1:], default=1) > 1
    return "signal" if signal else site.shape_kind


def parameter(state: EpochCompleted, count: int, gradient_norm: float, *, host: bool) -> list[float]:
    """The row of a group of parameters: the host's, or a live seed's."""
    rate = state.state.training_metrics.get("optimizer_lr", math.nan)
    return [
        math.log1p(count) / 2.0,
        count / max(1, state.params),
        *optional_log(gradient_norm),
        *optional_log(1e4 * rate),
        float(host),
    ]


def past(option: BlueprintOption) -> tuple[float, float, float, float]:
    """What became of earlier seeds at such sites: the share that was kept, the change of the loss; with masks."""
    outcomes = option.outcomes
    over = outcomes.fossilized + outcomes.culled
    kept = optional(outcomes.fossilized / over) if over else (0.0, 0.0)
    return *kept, *optional_log(10.0 * outcomes.loss_delta_mean, outcomes.reports > 0)
