"""Follows the archive for all pages that are open: one reader, whatever their number, and a newest overview."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from esper.cli.events import POLL_S
from esper.cli.output import json_text
from esper.cli.serve.newest import Newest
from esper.cli.serve.reader import SAME_S, TROUBLE, Answer, Ask, Key, Reader, beside
from esper.cli.serve.shown import NOTHING, budgets_view, overview
from esper.weatherlight import client
from streams.agents.scraped import scraped
from streams.metrics import Metrics

BUDGETS_S: Final = 30.0
"""How old what is said of budgets of thirty days may be: it takes all telemetry of them."""
BEAT_S: Final = SAME_S
"""A client hears something at least so often (R-NIS-19)."""


class Watch:
    """`newest` has the overview. While no page is open, nothing is read for it.

    What pages ask about single runs is read beside it, so that a question that takes long delays no overview.
    """

    def __init__(self, data_dir: Path, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.newest = Newest()
        self.clients = 0
        self._data_dir = data_dir
        self._metrics = metrics
        self._clock = clock
        self._follower = Reader(data_dir, clock)
        self._asked = Reader(data_dir, clock)
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Put what is new into `newest`, within a second, and something every five, as long as there are clients."""
        shown, at = -1, 0.0
        while True:
            if not self.clients:
                self._wanted.clear()
                await self._wanted.wait()
                shown = -1
            began = self._clock()
            generation = await self._follower.generation()
            if generation != shown or began - at >= BEAT_S:
                self.newest.put((await self.overview()).text)
                shown, at = generation, self._clock()
                self._metrics.observe("esper_serve_look_seconds", at - began)
            await asyncio.sleep(max(POLL_S, self._clock() - began))  # at most half of a core, however long a history

    def interrupt(self) -> None:
        """End what is being read: the page is being closed."""
        for each in (self._follower, self._asked):
            each.interrupt()

    async def close(self) -> None:
        """End the threads and give the histories back."""
        for each in (self._follower, self._asked):
            await each.close()

    def joined(self) -> None:
        """A client looks at the page from now on."""
        self.clients += 1
        self._metrics.set("esper_serve_clients", self.clients)
        self._wanted.set()

    def left(self) -> None:
        """One does no more."""
        self.clients -= 1
        self._metrics.set("esper_serve_clients", self.clients)

    async def overview(self) -> Answer:
        """All runs, alerts, breakers and budgets, and what processes say of themselves now."""
        said = await asyncio.to_thread(_said, self._data_dir)
        try:
            answer = await self._follower.ask(("overview",), lambda history, _tails: overview(history))
            budgets = await self._follower.ask(("budgets",), lambda history, _tails: budgets_view(history), BUDGETS_S)
            answer = Answer(beside(answer.text, **json.loads(budgets.text)), answer.stale)
        except TROUBLE as error:
            answer = Answer(json_text(NOTHING), str(error))
        return Answer(beside(answer.text, **said, stale=answer.stale), answer.stale)

    async def ask(self, key: Key, ask: Ask) -> Answer:
        """What pages ask about single runs; as `Reader.ask`, and the object says itself why it is `stale`."""
        answer = await self._asked.ask(key, ask)
        self._metrics.set("esper_serve_kept_bytes", self._asked.kept_bytes)
        return Answer(beside(answer.text, stale=answer.stale), answer.stale)


def _said(data_dir: Path) -> dict[str, Any]:
    """What processes say of themselves now: their states, and the samples that must not come by the log."""
    samples = list(scraped(data_dir / "run"))
    depths = [each.value for each in samples if each.name == "esper_oona_queue_depth"]
    status = client.status(data_dir)
    return {
        "at": time.time(),
        "queue_depth": max(depths) if depths else None,
        "forge_conservative": any(each.value for each in samples if each.name == "esper_tezzeret_mode_conservative"),
        "processes": [] if status is None else [{"name": s.name, "state": s.state} for s in status.services],
    }
