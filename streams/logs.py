"""What processes write to stderr: one line a thing, and not the same line twenty times a second.

aiokafka reports every failed attempt to reach a broker. While a process starts, its own one-line error says it better;
afterwards the same complaint is let through every ten seconds.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

AGAIN_S: Final = 10.0
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CLIENTS: Final = ("aiokafka", "faust", "mode", "kafka")


class Repeats(logging.Filter):
    """Lets a message of a client library through once in ten seconds, whatever its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a repetition."""
        if record.name.partition(".")[0] not in CLIENTS:
            return True
        key = (record.name, str(record.msg))
        now = time.monotonic()
        if now - self._last.get(key, -AGAIN_S) < AGAIN_S:
            return False
        self._last[key] = now
        return True


def configure() -> None:
    """Log warnings to stderr; client libraries are silent until `ready` is called."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def ready() -> None:
    """The process runs: what its client libraries warn of is news from now on."""
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)
