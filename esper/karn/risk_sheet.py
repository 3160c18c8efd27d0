"""The risk data sheet (BSDS-Lite) of a template, and what a controller must do about one. Knows no torch.

Score: the catalogue's risk, 0.05 more for an experimental template, 0.10 more for a high-risk one and 0.10 more for one
of the quarantine, at most 1. Bands from 0.30, 0.60 and 0.85. Requirements R-KARN-19 and 20; blueprint sheet 1.8.
"""

from __future__ import annotations

from typing import Final, Literal

from contracts.leyline.v1.leyline_pb2 import (
    BLUEPRINT_TIER_EXPERIMENTAL,
    BLUEPRINT_TIER_HIGH_RISK,
    BSDS,
    HANDLING_CLASS_QUARANTINE,
    HANDLING_CLASS_RESTRICTED,
    HANDLING_CLASS_STANDARD,
    HAZARD_BAND_CRITICAL,
    HAZARD_BAND_HIGH,
    HAZARD_BAND_LOW,
    HAZARD_BAND_MEDIUM,
    PROVENANCE_HEURISTIC,
    RESOURCE_PROFILE_MIXED,
    BlueprintDescriptor,
    HandlingClass,
    HazardBand,
)

BANDS: Final = ((0.85, HAZARD_BAND_CRITICAL), (0.60, HAZARD_BAND_HIGH), (0.30, HAZARD_BAND_MEDIUM))
SURCHARGE: Final = {BLUEPRINT_TIER_EXPERIMENTAL: 0.05, BLUEPRINT_TIER_HIGH_RISK: 0.10}
QUARANTINE_SURCHARGE: Final = 0.10

Consequence = Literal["none", "note", "downgrade", "pause"]
"""What a sheet asks of a germination: nothing, a note, an optimiser command instead, or a conservative pause."""

ADVICE: Final[dict[Consequence, str]] = {
    "none": "",
    "note": "may grow",
    "downgrade": "adjust the optimiser instead of growing it",
    "pause": "do not grow it; go on conservatively",
}


def risk_sheet(descriptor: BlueprintDescriptor, *, issued_at_ns: int) -> BSDS:
    """The sheet that follows from a template's facts alone; well below the 4 KiB that a sheet may take."""
    surcharge = SURCHARGE.get(descriptor.tier, 0.0) + (QUARANTINE_SURCHARGE if descriptor.quarantine_only else 0.0)
    score = min(1.0, descriptor.risk + surcharge)
    sheet = BSDS(
        version=1,
        blueprint_id=descriptor.blueprint_id,
        risk_score=score,
        hazard_band=band(score),
        handling_class=_handling(band(score), quarantine=descriptor.quarantine_only),
        resource_profile=RESOURCE_PROFILE_MIXED,
        provenance=PROVENANCE_HEURISTIC,
    )
    sheet.recommendation = ADVICE[consequence(sheet)]
    sheet.issued_at.FromNanoseconds(issued_at_ns)
    return sheet


def band(score: float) -> HazardBand:
    """The band of a risk score; its lower edge belongs to it."""
    return next((found for edge, found in BANDS if score >= edge), HAZARD_BAND_LOW)


def consequence(sheet: BSDS | None) -> Consequence:
    """What a controller must do before it germinates that template; without a sheet nothing changes (R-KARN-20)."""
    if sheet is None:
        return "none"
    if sheet.hazard_band == HAZARD_BAND_CRITICAL or sheet.handling_class == HANDLING_CLASS_QUARANTINE:
        return "pause"
    return "downgrade" if sheet.hazard_band == HAZARD_BAND_HIGH else "note"


def _handling(hazard: HazardBand, *, quarantine: bool) -> HandlingClass:
    if quarantine or hazard == HAZARD_BAND_CRITICAL:
        return HANDLING_CLASS_QUARANTINE
    return HANDLING_CLASS_RESTRICTED if hazard == HAZARD_BAND_HIGH else HANDLING_CLASS_STANDARD
