"""Risk data sheets: their scores and bands, and what a controller must do about one. R-KARN-19 and 20."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.karn.registration import descriptor
from esper.karn.risk_sheet import band, consequence, risk_sheet
from esper.karn.table import CATALOGUE


@pytest.mark.requirement("R-KARN-19")
def test_the_bands_have_their_lower_edges():
    """R-KARN-19."""
    names = [leyline.HazardBand.Name(band(score)) for score in (0.0, 0.29, 0.30, 0.59, 0.60, 0.84, 0.85, 1.0)]
    assert [name.removeprefix("HAZARD_BAND_") for name in names] == (
        ["LOW"] * 2 + ["MEDIUM"] * 2 + ["HIGH"] * 2 + ["CRITICAL"] * 2
    )


@pytest.mark.requirement("R-KARN-19")
def test_sheets_of_the_whole_catalogue():
    sheets = {name: risk_sheet(descriptor(b), issued_at_ns=5) for name, b in CATALOGUE.items()}
    planned = [sheet for name, sheet in sheets.items() if name <= "BP050"]
    counts = [sum(sheet.hazard_band == level for sheet in planned) for level in range(1, 5)]
    assert counts == [9, 26, 2, 13]
    assert all(sheet.ByteSize() < 4096 for sheet in sheets.values())
    assert sheets["BP043"].risk_score == 1.0
    assert sheets["BP043"].handling_class == leyline.HANDLING_CLASS_QUARANTINE
    assert sheets["BP036"].handling_class == leyline.HANDLING_CLASS_RESTRICTED
    assert sheets["BP009"].issued_at.ToNanoseconds() == 5


def test_what_a_sheet_asks_for():
    """R-KARN-20: critical or quarantine pauses, high downgrades, the rest is a note, and no sheet changes nothing."""
    asked = {name: consequence(risk_sheet(descriptor(b), issued_at_ns=0)) for name, b in CATALOGUE.items()}
    assert asked["BP001"] == asked["BP035"] == "note"
    assert asked["BP036"] == asked["BP037"] == "downgrade"
    assert {asked[f"BP{number:03d}"] for number in range(38, 51)} == {"pause"}
    assert consequence(None) == "none"
    assert consequence(leyline.BSDS(handling_class=leyline.HANDLING_CLASS_QUARANTINE)) == "pause"


def test_a_sheet_is_made_without_torch():
    code = "import esper.karn.risk_sheet, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
