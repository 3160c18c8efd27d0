"""Writing about policies: what the log says of them, events made of that, and both waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from contracts.topics import POLICIES
from esper.cli.history import check_writable, wait_for_archive
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.simic.versions import Versions, fold
from esper.weatherlight import client
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.producer import publish_once
from streams.reader import past
from streams.settings import Settings

ARCHIVE_S: Final = 30.0


def publish(data_dir: Path, make: Callable[[Versions], Sequence[Event]]) -> Sequence[Event]:
    """Fold what the log says of policies, publish the events that `make` makes of it, signed, and return them.

    The log has them when this returns, and the archive what of them is about policies. Raises as `make` does, and
    LogUnavailable where the log does not answer; then the same events can be published again, under the same ids.
    """
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    with client.join(data_dir, client="esper policy", brokers=settings.brokers) as lease:
        lease.wait_ready()
        made = asyncio.run(_publish(lease.brokers, ring, make))
        ends = ends_of(lease.brokers, (POLICIES,))
        wait_for_archive(data_dir, ends, ARCHIVE_S, lambda _to_go: None, lease.unwritable)
    return made


async def _publish(brokers: str, ring: KeyRing, make: Callable[[Versions], Sequence[Event]]) -> Sequence[Event]:
    made = make(fold([event async for event in past(brokers, ring, POLICIES)]))
    await publish_once(brokers, ring, made)
    return made
