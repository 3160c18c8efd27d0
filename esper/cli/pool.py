"""The blueprints that a command line names, as ids, and whether a run may use them; without torch, so told at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from esper.karn.approval import Clearance
from esper.karn.table import find_by_name
from esper.tolaria.config import RunConfig

POOLS: Final = ("default", "safe")


def ids_of(names: Iterable[str]) -> tuple[str, ...]:
    """Pools by their names, blueprints by their ids; raises InvalidInput for a name that is neither."""
    return tuple(name if name in POOLS else find_by_name(name).blueprint_id for name in names)


def check_pool(config: RunConfig) -> None:
    """Raise InvalidInput for a blueprint of the run's pool that it is not cleared for."""
    clearance = Clearance(config.dossier.approvals, drill=config.drill)
    for name in config.pool:
        if name not in POOLS:
            clearance.check(find_by_name(name))
