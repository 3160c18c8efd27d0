"""When records go to the disk: half a second after they were written, or before they are acknowledged."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from streams.broker.partition import Partition
from streams.broker.store import Store

_LOG: Final = logging.getLogger(__name__)
INTERVAL_S: Final = 0.5


class Flusher:
    """Syncs partitions in threads. Whoever waits for one that is being synced shares the next sync with all others."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sync")
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self, store: Store) -> None:
        """Syncs what was written, half a second after its first record, for ever. An idle log wakes nobody."""
        while True:
            await store.written.wait()
            store.written.clear()
            await asyncio.sleep(INTERVAL_S)
            for _, _, partition in tuple(store.partitions()):
                await self.sync(partition)

    async def sync(self, partition: Partition) -> None:
        """Returns when all that `partition` holds now is on the disk, or cannot get there (`failure` says why)."""
        goal = partition.next_offset
        while partition.synced_to < goal and not partition.failure:
            task = self._running.get(partition.name)
            if task is None:
                task = self._running[partition.name] = asyncio.create_task(self._sync(partition))
            await asyncio.shield(task)

    async def _sync(self, partition: Partition) -> None:
        covers = partition.next_offset
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, _sync_files, partition.unsynced())
            partition.synced_to = covers
        except OSError as error:
            # What the kernel could not write it may have dropped, and a second sync would say nothing of it.
            partition.failure = f"{partition.folder}: not written to the disk ({error.strerror}): restart the broker"
            _LOG.error("%s", partition.failure)
        finally:
            del self._running[partition.name]

    def close(self) -> None:
        """Waits for syncs under way."""
        self._pool.shutdown(wait=True)


def _sync_files(descriptors: list[int]) -> None:
    try:
        for fd in descriptors:
            os.fdatasync(fd)
    finally:
        for fd in descriptors:
            os.close(fd)
