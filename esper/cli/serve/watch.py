"""The one reader of the history behind the page: it follows the archive, and all clients share what it finds."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import duckdb

from esper.cli.events import POLL_S
from esper.cli.history import history_of
from esper.cli.output import json_text
from esper.cli.serve.newest import Newest
from esper.cli.serve.shown import Tails, overview
from esper.errors import EsperError
from esper.weatherlight import client
from streams.agents.scraped import scraped
from streams.metrics import Metrics

if TYPE_CHECKING:
    from projections.history import History

BEAT_S: Final = 5.0
"""A client hears something at least so often (R-NIS-19)."""
FRESH_S: Final = 0.5
"""What was asked for is not looked up again for so long: of twenty pages that show a run, one asks. Where nothing was
archived since, it is for as long as a client may hear nothing: only that a trainer died is not in the archive."""
SHARE: Final = 3
"""And for so many times as long as it took: a page that is open on a long history takes a quarter of a core."""
NICE: Final = 10
"""The reading thread's, and DuckDB's: whoever trains on these cores comes first."""
MOST_KEPT: Final = 64
MOST_KEPT_BYTES: Final = 32 * 2**20
TROUBLE: Final = (EsperError, duckdb.Error, OSError, ValueError)
"""What a history that cannot be read now raises: one that is not there yet, a damaged file, a full disk."""

Key: TypeAlias = tuple[str | int | None, ...]
Ask: TypeAlias = "Callable[[History, Tails], Any]"


@dataclass(frozen=True, slots=True)
class Answer:
    """JSON, and why it is not the newest where it is not: then it is the last that could be read."""

    text: str
    stale: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    generation: int
    at: float
    fresh_s: float
    text: str


class Watch:
    """Reads in a thread of its own, as DuckDB wants it. While nobody looks at the page, it reads nothing.

    `newest` has the overview. A history that cannot be read is tried again, and what was read last is shown meanwhile.
    """

    def __init__(self, data_dir: Path, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.newest = Newest()
        self.clients = 0
        self._data_dir = data_dir
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "serve-history", _step_back)
        self._open = ExitStack()
        self._history: History | None = None
        self._tails = Tails()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._kept_bytes = 0
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
            generation = await self._in_thread(self._generation)
            if generation != shown or began - at >= BEAT_S:
                answer = await self.overview()
                self.newest.put(answer.text)
                shown, at = generation, self._clock()
                self._metrics.observe("esper_serve_look_seconds", at - began)
            await asyncio.sleep(max(POLL_S, self._clock() - began))  # at most half of a core, however long a history

    async def close(self) -> None:
        """End the thread and give the history back."""
        await self._in_thread(self._give_back)
        self._thread.shutdown(wait=False)

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
        """All runs, alerts, breakers and budgets, and how deep the queues are."""
        asked = await asyncio.to_thread(_asked, self._data_dir)
        return await self.ask(("overview",), lambda history, _tails: overview(history), asked)

    async def ask(self, key: Key, ask: Ask, beside: dict[str, Any] | None = None) -> Answer:
        """The JSON of what `ask` finds in the history, with what is known `beside` it; it is kept under `key`.

        Raises InvalidInput where the history says that there is no such thing, and where there is no history and never
        was.
        """
        answer: Answer = await self._in_thread(lambda: self._answer(key, ask, beside))
        return answer

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _generation(self) -> int:
        """The archive's generation; -2 where it cannot be read now."""
        try:
            history = self._opened()
            history.refresh()
        except TROUBLE:
            return -2
        return history.manifest.generation

    def _opened(self) -> History:
        if self._history is None:
            self._history = self._open.enter_context(history_of(self._data_dir))
        return self._history

    def _answer(self, key: Key, ask: Ask, beside: dict[str, Any] | None) -> Answer:
        kept, now = self._kept.get(key), self._clock()
        try:
            history = self._opened()
            history.refresh()
            generation = history.manifest.generation
            if kept is None or now - kept.at >= (BEAT_S if kept.generation == generation else kept.fresh_s):
                text = json_text(ask(history, self._tails))
                kept = _Kept(generation, now, max(FRESH_S, SHARE * (self._clock() - now)), text)
                self._keep(key, kept)
        except TROUBLE as error:
            if isinstance(error, duckdb.Error | OSError):
                self._give_back()  # the next try begins anew
            if kept is None:
                if key != ("overview",):
                    raise
                kept = _Kept(-1, now, FRESH_S, json_text(nothing()))
            return Answer(_beside(kept.text, {**(beside or {}), "stale": str(error)}), str(error))
        return Answer(_beside(kept.text, {**(beside or {}), "stale": None}))

    def _give_back(self) -> None:
        self._open.close()
        self._history, self._tails = None, Tails()

    def _keep(self, key: Key, kept: _Kept) -> None:
        before = self._kept.pop(key, None)
        self._kept_bytes += len(kept.text) - (len(before.text) if before else 0)
        self._kept[key] = kept
        while len(self._kept) > MOST_KEPT or (self._kept_bytes > MOST_KEPT_BYTES and len(self._kept) > 1):
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone.text)
        self._metrics.set("esper_serve_kept_bytes", self._kept_bytes)


def _step_back() -> None:
    """Lower the priority of this thread, and of those that it starts, where the system has one for each."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _beside(text: str, more: dict[str, Any]) -> str:
    """A JSON object with some names more."""
    return f"{json_text(more)[:-1]}, {text[1:]}"


def nothing() -> dict[str, Any]:
    """The overview of a data folder that has no history yet."""
    empty: Sequence[Any] = ()
    return {"runs": empty, "waiting": empty, "alerts": empty, "alert_count": 0, "breakers": empty, "budgets": empty}


def _asked(data_dir: Path) -> dict[str, Any]:
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
