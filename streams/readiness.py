"""Being ready, and saying so: whether the log answers, and the line and file by which a process is found."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from streams.metrics import Metrics
from streams.producer import Publisher
from streams.settings import Settings

LOG_CHECK_S: Final = 1.0
LOG_SILENT_S: Final = 5.0


class Pulse:
    """Whether the log answers, asked every second in the background, so that nobody who asks has to wait."""

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._answered_at = time.monotonic()

    async def keep(self) -> None:
        """Ask for ever."""
        while True:
            if await self._publisher.answers():
                self._answered_at = time.monotonic()
            self._metrics.set("esper_oona_log_up", 0.0 if self.trouble() else 1.0)
            await asyncio.sleep(LOG_CHECK_S)

    def trouble(self) -> str | None:
        """One line where the log is silent."""
        silent_s = time.monotonic() - self._answered_at
        return None if silent_s < LOG_SILENT_S else f"the log is silent for {silent_s:.0f} s"


def announce(name: str, settings: Settings, health_port: int) -> None:
    """Say that the process is ready: a line on stdout for who started it, a list of targets for Prometheus."""
    _write_target(settings.run_folder / f"{name}.json", name, health_port)
    sys.stdout.write(json.dumps({"ready": True, "health_port": health_port}) + "\n")
    sys.stdout.flush()


@contextmanager
def scraped(path: Path, process: str, health_port: int) -> Iterator[None]:
    """Prometheus scrapes this process as `process` for as long as the list of targets at `path` is there."""
    _write_target(path, process, health_port)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_target(path: Path, process: str, health_port: int) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    targets = [{"targets": [f"127.0.0.1:{health_port}"], "labels": {"process": process}}]
    temporary.write_text(json.dumps(targets) + "\n")
    temporary.replace(path)
