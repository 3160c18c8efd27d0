"""What a site offers to a controller: the options that could grow there, with all that is known about each.

`catalogue.options` measures what a blueprint costs at the site; here its tier and stage, its risk data sheet and its
past join, so that a decision can weigh them and stays a function of the packet alone.
"""

from __future__ import annotations

from collections.abc import Collection

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from contracts.leyline.v1.leyline_pb2 import HANDLING_CLASS_STANDARD
from esper.karn import catalogue
from esper.karn.approval import Clearance
from esper.karn.descriptor import TIERS, descriptor
from esper.karn.dossier import Dossier
from esper.karn.risk_sheet import risk_sheet


def offer(
    site: SiteDescription, *, pool: Collection[str], dossier: Dossier, clearance: Clearance
) -> list[BlueprintOption]:
    """What could grow at `site`, in order of ids; what was issued as a risk data sheet replaces Karn's own.

    Raises InvalidInput as `catalogue.options` does.
    """
    options = catalogue.options(site, pool=pool, clearance=clearance)
    sheets = {sheet.blueprint_id: sheet.message() for sheet in dossier.sheets}
    outcomes = {each.blueprint_id: each for each in dossier.outcomes if each.shape_kind == site.shape_kind}
    for option in options:
        blueprint = catalogue.find(option.blueprint_id)
        option.tier = TIERS[blueprint.tier]
        option.stage = blueprint.stage
        sheet = sheets.get(option.blueprint_id) or risk_sheet(descriptor(blueprint), issued_at_ns=0)
        option.hazard_band = sheet.hazard_band
        if sheet.handling_class != HANDLING_CLASS_STANDARD:  # two bytes an option, in every packet
            option.handling_class = sheet.handling_class
        if option.blueprint_id in outcomes:
            option.outcomes.CopyFrom(outcomes[option.blueprint_id].message())
    return options
