"""Reads the history for the page, in a thread of its own as DuckDB wants it, and keeps what was asked for last."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import duckdb

from esper.cli.history import history_of
from esper.cli.output import json_text
from esper.cli.serve.shown import Tails
from esper.errors import EsperError

if TYPE_CHECKING:
    from projections.history import History

SAME_S: Final = 5.0
"""So long an answer counts where nothing was archived since: only that a trainer died is not in the archive."""
FRESH_S: Final = 0.5
"""So long it counts in any case, of twenty pages that show a run one asks,"""
SHARE: Final = 3
"""and for so many times as long as it took: a page that is open on a long history takes a quarter of a core."""
MOST_KEPT: Final = 64
MOST_KEPT_BYTES: Final = 32 * 2**20
TROUBLE: Final = (EsperError, duckdb.Error, OSError, ValueError)
"""What a history that cannot be read now raises: one that is not there yet, a damaged file, a full disk."""

T = TypeVar("T")
Key: TypeAlias = tuple[str | int | None, ...]
Ask: TypeAlias = "Callable[[History, Tails], Any]"


class Ended(EsperError):
    """The page is being closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON object; `stale` says why it is not the newest where it is not: then it is the last that could be read."""

    text: str
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    generation: int
    at: float
    fresh_s: float
    text: str


class Reader:
    """A history that is opened when it is there. One that cannot be read is tried again at the next question.

    `kept_bytes` is how much of its answers is kept, for the next page that asks for the same.
    """

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.kept_bytes = 0
        self._data_dir = data_dir
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "serve-history")
        self._ended = False
        self._open = ExitStack()
        self._history: History | None = None
        self._tails = Tails()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    async def ask(self, key: Key, ask: Ask, good_s: float = FRESH_S) -> Answer:
        """The JSON of what `ask` finds, or found lately: it is kept under `key`, and good for `good_s` at least.

        Raises EsperError where the history says that there is no such thing, and what the history raises where it
        cannot be read and the same was never asked before.
        """
        return await self._in_thread(lambda: self._answer(key, ask, good_s))

    async def generation(self) -> int:
        """The newest generation of the archive; -2 where it cannot be read now."""
        return await self._in_thread(self._generation)

    def interrupt(self) -> None:
        """End what is being asked, and answer nothing any more."""
        self._ended = True
        if self._history is not None:
            self._history.interrupt()

    async def close(self) -> None:
        """End the thread and give the history back."""
        self.interrupt()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._give_back)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _opened(self) -> History:
        if self._ended:
            raise Ended("the page is being closed")
        if self._history is None:
            self._history = self._open.enter_context(history_of(self._data_dir))
        return self._history

    def _give_back(self) -> None:
        self._open.close()
        self._history, self._tails = None, Tails()

    def _generation(self) -> int:
        try:
            history = self._opened()
            history.refresh()
        except TROUBLE:
            return -2
        return history.manifest.generation

    def _answer(self, key: Key, ask: Ask, good_s: float) -> Answer:
        kept, now = self._kept.get(key), self._clock()
        try:
            history = self._opened()
            history.refresh()
            generation = history.manifest.generation
            if kept is None or now - kept.at >= (
                max(SAME_S, good_s) if kept.generation == generation else kept.fresh_s
            ):
                text = json_text(ask(history, self._tails))
                kept = _Kept(generation, now, max(good_s, SHARE * (self._clock() - now)), text)
                self._keep(key, kept)
        except TROUBLE as error:
            if isinstance(error, duckdb.Error | OSError):
                self._give_back()  # the next try begins anew
            if kept is None:
                raise
            return Answer(kept.text, str(error))
        return Answer(kept.text)

    def _keep(self, key: Key, kept: _Kept) -> None:
        before = self._kept.pop(key, None)
        self.kept_bytes += len(kept.text) - (len(before.text) if before else 0)
        self._kept[key] = kept
        while len(self._kept) > MOST_KEPT or (self.kept_bytes > MOST_KEPT_BYTES and len(self._kept) > 1):
            _, gone = self._kept.popitem(last=False)
            self.kept_bytes -= len(gone.text)


def beside(text: str, **more: Any) -> str:
    """The text of a JSON object with some names more, before its own."""
    return f"{json_text(more)[:-1]}, {text[1:]}"
