"""A thread with an asyncio loop of its own, for code that is synchronous and must stay so: the training loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs from its making until `stop`. A daemon thread, so a trainer that dies does not hang on it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def spawn(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a coroutine on the loop and go on."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
        """Run a coroutine to its end; raises what it raises, and TimeoutError (it is cancelled then)."""
        future = self.spawn(coroutine)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback`."""
        self._loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        """Cancel whatever still runs on the loop and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._hang_up()
        self._loop.close()

    def _hang_up(self) -> None:
        """Close connections that nobody closed, as to a log that has fallen silent.

        The interpreter would do so when it finds them, on a loop that is closed, and print that it could not. asyncio
        has no public list of them.
        """
        for transport in list(getattr(self._loop, "_transports", {}).values()):
            transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
