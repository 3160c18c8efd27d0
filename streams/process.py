"""What the processes of Faust agents do alike: they join their group, say that they are ready, and end in time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from esper.leyline.signing import KeyRing
from streams.app import App, make_app
from streams.entry import Place, announce, clients_may_warn, end_in, log_to_stderr, parser_of, place_of
from streams.health import HealthServer, LogCheck
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.settings import Settings
from streams.topics import ensure_topics

READY_S: Final = 25.0
STOP_S: Final = 1.5
SWITCH_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What a process gives its agents."""

    app: App
    settings: Settings
    brokers: str
    ring: KeyRing
    publisher: Publisher
    metrics: Metrics


Setup = Callable[[AgentContext], Awaitable[None]]
"""Declares the agents of a process on `context.app` and warms up what they need; called before the app starts."""


def run_agents(
    name: str, setup: Setup, arguments: Sequence[str], messages: TextIO, description: str, *, urgent: bool = False
) -> None:
    """Run the agents that `setup` declares until SIGTERM or SIGINT. Raises EsperError.

    The records of `urgent` agents are delivered at once, those of others gathered first.
    """
    options = parser_of(f"streams.{name}", description).parse_args(arguments)
    log_to_stderr()
    asyncio.run(_serve(name, place_of(options), setup, messages, urgent=urgent))


async def _serve(name: str, place: Place, setup: Setup, messages: TextIO, *, urgent: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings, brokers = place.settings, place.brokers
    await ensure_topics(brokers, group=f"esper-{name}")
    metrics = Metrics()
    app = make_app(f"esper-{name}", brokers, settings.data, embedded=settings.brokers is None, urgent=urgent)
    publisher = Publisher(brokers, place.ring, metrics)
    await publisher.start()
    await setup(AgentContext(app, settings, brokers, place.ring, publisher, metrics))
    app.finalize()
    await app.start()

    def group() -> str | None:
        return _unassigned(app, may_stand_by=settings.brokers is not None)

    await _until_assigned(group, stop)
    _settle()
    checks = {"log": LogCheck(publisher, metrics).trouble, "group": group}
    with HealthServer(name, metrics, checks=checks) as health:
        clients_may_warn()
        if not stop.is_set():
            announce(name, settings.run_folder, health.port, messages)
        await stop.wait()
        end_in(STOP_S)  # Faust can wait for ever on an agent that crashed, as when its broker is killed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S / 2):
                await app.stop()
        await publisher.stop()
    gc.unfreeze()  # else DuckDB complains at the end about what was never collected


def _settle() -> None:
    """Take two stalls out of an agent's answers: collections that walk every module, and threads that wait 5 ms.

    The health server and what agents give to threads (objects to sync) may compute as well, and each hand-over of the
    interpreter costs up to the switch interval.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


async def _until_assigned(unassigned: Callable[[], str | None], stop: asyncio.Event) -> None:
    """Wait until the group has given this process its partitions (or there is nothing to wait for)."""
    deadline = time.monotonic() + READY_S
    while unassigned() and not stop.is_set() and time.monotonic() < deadline:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0.01)


def _unassigned(app: Any, *, may_stand_by: bool) -> str | None:
    """One line while the group gives this process no partitions.

    Where others share an outside log, one may rightly get none: Faust gives two machines of three two each of four.
    Then this process stands by, and the others do its work. On an embedded log there are no others for long: the group
    still has one that died, and this process will be its heir.
    """
    if app.rebalancing or not app.consumer.assignment():
        if may_stand_by and app.rebalancing_count and not app.rebalancing:
            return None
        return "no partitions are assigned"
    return None
