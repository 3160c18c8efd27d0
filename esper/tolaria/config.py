"""A run's complete configuration: frozen, written into the run's first event with every default, read back the same.

Free of torch, so that the command line can build one without loading it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from esper.errors import InvalidInput
from esper.karn.dossier import Dossier
from esper.kasmina.settings import Axis, SeedSettings
from esper.leyline.field_checks import check_fields
from esper.leyline.json_text import parsed
from esper.tolaria.structure import Piece

Policy = Literal["heuristic", "random", "explore", "none", "learned"]
RatePolicy = Literal["constant", "cosine", "warmup", "wsd", "own"]
OptimizerKind = Literal["adamw", "sgd", "own"]
"""`own`: the script of a run brings its optimiser and its schedule; no task can have it."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_CHECKED_BY_THEMSELVES: Final = frozenset({"seeds", "dossier", "structure"})

LEGACY: Final[dict[str, Any]] = {
    "axes": ("depth",),
    "measuring_share": None,
    "growth_data_share": 0.0,
    "sheet_risk": False,
}
"""What a recorded configuration without the field meant: what was so before there was such a setting. Whoever adds a
setting whose default changes what a run computes names it here, or in the table below, so that old runs replay."""

LEGACY_SEEDS: Final[dict[str, Any]] = {"lifecycle": "full", "rules": 1}
"""The same for the settings under `seeds`."""


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record as JSON has them, with what those that it lacks meant then; {} where it has none."""
    if not values:
        return {}
    legacy: dict[str, Any] = json.loads(json.dumps(LEGACY))
    seeds = values.get("seeds")
    return legacy | dict(values) | ({"seeds": LEGACY_SEEDS | seeds} if isinstance(seeds, dict) else {})


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A run's settings. None for `epochs`, `batch_size` or `learning_rate` means the task's own, and is never recorded.

    Units: `*_epochs` epochs, `*_s` seconds, `*_bytes` bytes, `*_factor` a ratio. Raises InvalidInput for a value out of
    its range.
    """

    task: str = "digits"
    seed: NonNegativeInt = 0
    policy: Policy = "heuristic"
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    device: str = "cpu"
    threads: PositiveInt = 1
    control_of: str = ""
    """The run id of the grown run that this control belongs to."""

    static_of: str = ""
    """The run id of the grown run whose structure this static run has from its first step."""

    structure: tuple[Piece, ...] = ()
    """What is built into the host before the first step; nothing grows in such a run."""

    flops_budget: PositiveFloat | None = None
    """FLOPs of the steps: without `epochs` a run has as many as come nearest to it."""

    pool: tuple[str, ...] = ("default",)
    """What may grow: blueprint ids, and the pools `default` and `safe`; recorded as ids. Beyond the safe tier a
    blueprint needs an approval in the dossier, and a stressor a drill besides."""

    axes: tuple[Axis, ...] = ("depth", "width", "heads")
    """Which of the task's sites are offered: those where a module can grow, those where the host itself can widen."""

    drill: bool = False
    """A quarantine drill: stressors may grow, for the sake of what must stop them, and the network is thrown away."""

    dossier: Dossier = field(default_factory=Dossier)
    """What the log knew about blueprints when this run was asked for; recorded as far as it concerns the run."""

    optimizer: OptimizerKind = "adamw"
    weight_decay: NonNegativeFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For sgd alone."""

    rate_policy: RatePolicy = "cosine"
    """The one default of every task and arm. `wsd` warms up, stays constant, and falls in a straight line to 0. Both
    end at 0: a constant rate leaves the last weights so noisy that a table sees little else."""

    rate_warmup_epochs: NonNegativeFloat = 1.0
    """For the policies warmup and wsd: linear from a tenth of the base rate."""

    rate_decay_share: Share = 0.8
    """For the policy wsd: the share of the steps after which the rate falls."""

    new_parameter_rate: PositiveFloat = 0.1
    """New parameters start at this share of their rate (R-TOL-16)."""

    new_parameter_warmup_epochs: NonNegativeFloat = 1.0
    """... and reach all of it after so many epochs. On digits 0, 1 and 10 (the original's figure) differ by less than
    0.3 points of accuracy; a run of 8 epochs would be over before a warm-up of 10."""

    seed_rate_factor: PositiveFloat = 1.0
    """The rate of seeds, as a multiple of the host's."""

    clip_norm: PositiveFloat | None = 10.0
    """Largest gradient norm of each loss: the host with its live seeds, and each seed's own side pass (R-TOL-11). None
    clips nothing."""

    microbatches: PositiveInt = 1
    pcgrad: bool = False
    """Project conflicting gradients of the microbatches off each other (needs two microbatches at least)."""

    decision_timeout_s: PositiveFloat | None = 2.0
    """How long an epoch waits for its decision; None waits for ever, which equality tests need (ruling 2)."""

    compiled_kernels: bool = False
    """Let the library's compiled kernels replace eager ones where they were measured to be faster. What a run computes
    then depends, in the last bits, on when the forge had them: the swaps are facts, and a replay repeats them."""

    window_epochs: PositiveInt = 3
    """How long the outcome of an applied command is watched (R-TAM-46)."""

    measuring_share: Share | None = 0.1
    """What the probes and the evidence of a run may cost of the FLOPs of its training: so many samples of the probe set
    are measured at the end of an epoch. None measures all of them, and evidence on 256."""

    count_attention: bool = False
    """Whether FLOPs have a CPU's attention in them, for which torch has no formula. The measuring share is of FLOPs: so
    this moves what a task with attention comes to; the tables are without. Scripts, which measure all, have it."""

    growth_budget_factor: NonNegativeFloat = None  # type: ignore[assignment]  # always a number once it is made
    """Parameters that all seeds together may have, as a multiple of the host's: 9 where nothing is said and seeds are
    inserted and proven one after the other (`swift`), 4 elsewhere."""

    growth_data_share: NonNegativeFloat = None  # type: ignore[assignment]  # always a number once it is made
    """Parameters that host and seeds together may have, as a share of the numbers that the training targets fix: of
    each class target one less than there are classes, of each other target one. A network with about as many parameters
    as that can learn its training set by heart, and more of them do harm first. 0 asks nothing of the data; where
    nothing is said it is 0.5 in `swift`, and 0 elsewhere, where a trial comes before a seed is mixed in."""

    telemetry_every_steps: PositiveInt = 10
    checkpoint_every_epochs: PositiveInt = 1
    keep_checkpoints: NonNegativeInt = 3
    """The newest so many stay; 0 keeps all."""

    fast_snapshots: PositiveInt = 5
    fast_snapshot_bytes: NonNegativeInt = 32 * 1024 * 1024
    divergence_factor: PositiveFloat = 15.0
    """A loss above this multiple of the expected one is a divergence (R-TOL-31)."""

    gradient_factor: PositiveFloat = 1e3
    """A gradient norm, before clipping, above this multiple of the first steps' is an explosion."""

    rollback_rate_factor: PositiveFloat = 0.5
    """What a rollback after a failure does to every learning rate: the same step would fail the same way again."""

    lowest_rate_share: PositiveFloat = 0.01
    highest_rate_share: PositiveFloat = 4.0
    """What a person or a policy may make of the learning rates: shares of what they would be otherwise (R-TAM-19)."""

    sheet_risk: bool = True
    """Let the score of a risk data sheet that was issued for a blueprint stand for the catalogue's risk (R-TAM-30)."""

    pause_quota: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Pauses that each of a run's masters, its policy and a person, may ask for within an epoch (R-TAM-44)."""

    max_rollbacks: PositiveInt = 3
    """Failures without a completed epoch in between after which the run halts (R-TOL-30)."""

    halt_at_missed_deadline: bool = False
    """Halt when a rollback took longer than its deadline, 0.5 s the fast way and 12 s the full one. Otherwise nothing
    grows until the next completed epoch."""

    memory_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """MiB that the run may keep, in the published shares: a germination beyond one is refused. Nothing is said by
    default, and nothing is counted."""

    seeds: SeedSettings = field(default_factory=SeedSettings)

    def __post_init__(self) -> None:
        if self.growth_budget_factor is None:
            object.__setattr__(self, "growth_budget_factor", 9.0 if self.seeds.swift else 4.0)
        if self.growth_data_share is None:
            object.__setattr__(self, "growth_data_share", 0.5 if self.seeds.swift else 0.0)
        check_fields(self, skip=_CHECKED_BY_THEMSELVES)
        if not self.lowest_rate_share <= 1.0 <= self.highest_rate_share:
            raise InvalidInput(
                f"lowest_rate_share {self.lowest_rate_share:g} and highest_rate_share {self.highest_rate_share:g} must "
                "have 1 between them: what nobody changes is within its limits"
            )
        if self.pcgrad and self.microbatches < 2:
            raise InvalidInput("pcgrad compares the gradients of microbatches; set microbatches to 2 at least")

    def resolved(self, *, epochs: int, batch_size: int, learning_rate: float) -> RunConfig:
        """The same with the task's defaults, given here, where nothing was chosen."""
        return replace(
            self,
            epochs=epochs if self.epochs is None else self.epochs,
            batch_size=batch_size if self.batch_size is None else self.batch_size,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
        )

    def to_json(self) -> str:
        """Every field, in the order of their names."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """The configuration that `to_json` wrote, that of an earlier version included.

        What a field that it lacks meant then is in LEGACY and LEGACY_SEEDS, or else its default.

        Raises InvalidInput for text that is no JSON object, a field that does not exist, and a value out of its range.
        """
        return cls._read(text, LEGACY, LEGACY_SEEDS)

    @classmethod
    def from_request(cls, text: str) -> RunConfig:
        """The configuration that a person asks for; fields that are left out have their default. Raises as above."""
        return cls._read(text, {}, {})

    @classmethod
    def _read(cls, text: str, missing: dict[str, Any], missing_seeds: dict[str, Any]) -> RunConfig:
        try:
            values = parsed(text)
        except ValueError as error:
            raise InvalidInput(f"the configuration is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise InvalidInput(f"the configuration is no JSON object but a {type(values).__name__}")
        seeds = SeedSettings(**(missing_seeds | _known(SeedSettings, values.pop("seeds", {}), "seeds.")))
        dossier = Dossier.from_dict(values.pop("dossier", {}))
        pieces = values.pop("structure", ())
        if not isinstance(pieces, (list, tuple)):
            raise InvalidInput(f"structure is {pieces}; it must be a list of seeds")
        structure = tuple(Piece.from_dict(each) for each in pieces)
        lists = {name: tuple(values[name]) for name in ("pool", "axes") if isinstance(values.get(name), list)}
        return cls(**(missing | _known(cls, values, "") | lists), seeds=seeds, dossier=dossier, structure=structure)


def _known(owner: type, values: Any, prefix: str) -> dict[str, Any]:
    """`values` as keyword arguments of the dataclass `owner`; raises InvalidInput for a name that it does not have."""
    if not isinstance(values, dict):
        raise InvalidInput(f"{prefix.rstrip('.')} is {values}; it must be an object with the settings' names")
    names = {each.name for each in fields(owner)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise InvalidInput(f"configuration field {prefix}{unknown[0]} does not exist; the fields are {sorted(names)}")
    return values
