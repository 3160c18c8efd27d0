"""What the log knows about blueprints when a run is asked for: approvals, risk data sheets, and what became of seeds.

The top floor reads it from the history, the run's first event records it, and everything later works with that copy: a
replay knows what the run knew. Empty, as for a run in memory, it changes nothing. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.leyline.v1.event_pb2 import BlueprintOutcomes
from contracts.leyline.v1.leyline_pb2 import BSDS, HandlingClass, HazardBand
from esper.errors import InvalidInput
from esper.karn.approval import Approval


@dataclass(frozen=True, slots=True)
class Sheet:
    """The newest risk data sheet that was issued for a blueprint; the names of Leyline's enums without their prefix."""

    blueprint_id: str
    risk_score: float
    hazard_band: str
    handling_class: str

    def message(self) -> BSDS:
        """The sheet as Leyline's message; raises InvalidInput for a band or class that does not exist."""
        return BSDS(
            version=1,
            blueprint_id=self.blueprint_id,
            risk_score=self.risk_score,
            hazard_band=_number(HazardBand, "HAZARD_BAND", self.hazard_band),
            handling_class=_number(HandlingClass, "HANDLING_CLASS", self.handling_class),
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of a blueprint's seeds at sites of one shape kind.

    `loss_delta_*` are of the field reports on its germinations: the probe loss over a report's window, new minus old.
    """

    blueprint_id: str
    shape_kind: str
    germinated: int
    fossilized: int
    culled: int
    reports: int = 0
    loss_delta_mean: float = 0.0
    loss_delta_stderr: float = 0.0

    def message(self) -> BlueprintOutcomes:
        """The outcomes as an option of a site carries them."""
        return BlueprintOutcomes(
            germinated=self.germinated,
            fossilized=self.fossilized,
            culled=self.culled,
            reports=self.reports,
            loss_delta_mean=self.loss_delta_mean,
            loss_delta_stderr=self.loss_delta_stderr,
        )


@dataclass(frozen=True, slots=True)
class Dossier:
    """Approvals by blueprint id, the newest sheet of each blueprint, and outcomes of each blueprint and shape kind."""

    approvals: Mapping[str, Approval] = field(default_factory=dict)
    sheets: tuple[Sheet, ...] = ()
    outcomes: tuple[Outcomes, ...] = ()

    def of(self, pool: Collection[str], shape_kinds: Collection[str]) -> Dossier:
        """What of it concerns these blueprints at sites of these kinds: all that a run has to record."""
        return Dossier(
            {name: approval for name, approval in sorted(self.approvals.items()) if name in pool},
            tuple(sheet for sheet in self.sheets if sheet.blueprint_id in pool),
            tuple(each for each in self.outcomes if each.blueprint_id in pool and each.shape_kind in shape_kinds),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dossier:
        """The dossier that `dataclasses.asdict` made plain; raises InvalidInput for anything else."""
        try:
            known = dict(values)
            dossier = cls(
                {name: Approval(**approval) for name, approval in known.pop("approvals", {}).items()},
                tuple(Sheet(**sheet) for sheet in known.pop("sheets", ())),
                tuple(Outcomes(**outcomes) for outcomes in known.pop("outcomes", ())),
            )
        except (TypeError, AttributeError) as error:
            raise InvalidInput(f"the configuration's dossier on blueprints cannot be read: {error}") from None
        if known:
            raise InvalidInput(f"configuration field dossier.{min(known)} does not exist")
        return dossier


def _number(enum: Any, prefix: str, name: str) -> Any:
    try:
        return enum.Value(f"{prefix}_{name}")
    except ValueError:
        raise InvalidInput(f"{name!r} is no {prefix.lower().replace('_', ' ')}") from None
