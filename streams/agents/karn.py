"""Karn in the worker: the catalogue is told on the log, each template once for ever. It holds no logic."""

from __future__ import annotations

import time

from esper.karn.registration import registration
from projections.library import LibraryReader
from streams.process import AgentContext


async def setup(context: AgentContext, library: LibraryReader) -> None:
    """Say of every template what `library` has not heard yet."""
    known = library.announced()
    missing = [event for event in registration(time.time_ns()) if event.event_id not in known]
    if missing:
        await context.publisher.publish(missing)
