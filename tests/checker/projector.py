"""A house's projections: every one of `projections.registry`, kept up with the log as the worker and the learner do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import duckdb

from esper.errors import LogUnavailable
from projections.registry import PROJECTIONS, file_of
from projections.store import Store
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.projection_feed import ProjectionFeed
from streams.settings import Settings


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Say ready when the projections are up with the log, and keep them so until SIGTERM."""
    brokers, data = arguments
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        asyncio.run(_keep(brokers, Path(data), messages))
    except (duckdb.Error, OSError) as error:  # a full disk ends its process, which is started again
        raise LogUnavailable(f"the projections cannot be kept: {error!r}") from error


async def _keep(brokers: str, data: Path, messages: TextIO) -> None:
    ring = load_key_ring(Settings.load(data=data), brokers)
    stores = [Store(projection, file_of(data, projection), ring) for projection in PROJECTIONS.values()]
    feed = ProjectionFeed(stores, brokers, Metrics(), archive=data / "archive")
    await feed.catch_up()
    kept = asyncio.ensure_future(feed.keep())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, kept.cancel)
    messages.write('{"ready": true}\n')
    with contextlib.suppress(asyncio.CancelledError):
        await kept
