"""`--pool` and `--drill` of `esper run`: the blueprints that may grow, and those that a quarantine drill germinates."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from typing import Final

from contracts.leyline.v1.event_pb2 import SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    SEED_OPERATION_GERMINATE,
    AdaptationCommand,
    CommandSeedOperation,
)
from esper.cli.output import complain
from esper.karn.approval import Clearance
from esper.karn.table import find_by_name
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, new_event
from esper.leyline.signing import KeyRing
from esper.tolaria.config import RunConfig

POOLS: Final = ("default", "safe")
PRODUCER: Final = "drill"


def ids_of(names: Iterable[str]) -> tuple[str, ...]:
    """Pools by their names, blueprints by their ids; raises InvalidInput for a name that is neither."""
    return tuple(name if name in POOLS else find_by_name(name).blueprint_id for name in names)


def check_pool(config: RunConfig) -> None:
    """Raise InvalidInput for a blueprint of the run's pool that it is not cleared for."""
    clearance = Clearance(config.dossier.approvals, drill=config.drill)
    for name in config.pool:
        if name not in POOLS:
            clearance.check(find_by_name(name))


class Instructor:
    """Watches a run's events, and has its stressors germinate once, each at a site of its own."""

    def __init__(self, run_id: str, stressors: Sequence[str], ring: KeyRing) -> None:
        self._run_id = run_id
        self._waiting = tuple(stressors)
        self._ring = ring

    def see(self, event: Event, brokers: str) -> None:
        """Send the commands where this is the run's start; raises LogUnavailable where no broker takes them."""
        if not self._waiting or event.run_id != self._run_id or body_name(event) != "run_started":
            return
        commands = germinations(self._run_id, self._waiting, event.run_started.sites, time.time_ns())
        left_out = self._waiting[len(commands) :]
        if left_out:
            complain(f"no site is free for {', '.join(left_out)}; the drill goes on without")
        self._waiting = ()
        asyncio.run(self._say(commands, brokers))

    async def _say(self, commands: Sequence[Event], brokers: str) -> None:
        from streams.metrics import Metrics  # noqa: PLC0415 - a mistyped name is told without a Kafka client
        from streams.producer import Publisher  # noqa: PLC0415

        publisher = Publisher(brokers, self._ring, Metrics())
        try:
            await publisher.publish(commands)
        finally:
            await publisher.stop()


def germinations(run_id: str, stressors: Sequence[str], sites: Sequence[SiteDescription], now_ns: int) -> list[Event]:
    """A command for each stressor, as far as there are sites that offer it, one site each, in order."""
    free = list(sites)
    commands = []
    for blueprint_id in stressors:
        site = next((each for each in free if blueprint_id in [o.blueprint_id for o in each.options]), None)
        if site is None:
            break
        free.remove(site)
        commands.append(_germinate(run_id, site.seed_id, blueprint_id, now_ns))
    return commands


def _germinate(run_id: str, seed_id: str, blueprint_id: str, now_ns: int) -> Event:
    event_id = ids.uuid7(now_ns, os.urandom(10))
    body = AdaptationCommand(
        version=1,
        command_id=ids.text(event_id),
        command_type=COMMAND_TYPE_SEED,
        target_seed_id=seed_id,
        issued_by=PRODUCER,
        seed_operation=CommandSeedOperation(operation=SEED_OPERATION_GERMINATE, blueprint_id=blueprint_id),
    )
    body.issued_at.FromNanoseconds(now_ns)
    return new_event(body, event_id=event_id, run_id=run_id, producer=PRODUCER, recorded_at_ns=now_ns)
