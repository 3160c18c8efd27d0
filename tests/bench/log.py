"""A trainer's log on an embedded broker of its own, for as long as a benchmark lasts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.testing import KEYS
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.topics import ensure_topics
from streams.trainer_log import KafkaLog


@contextmanager
def kafka_log(run_id: str) -> Iterator[KafkaLog]:
    """The log of the run, with every topic made."""
    with tempfile.TemporaryDirectory() as folder:
        broker = start_broker(Path(folder), anonymous=True)
        try:
            asyncio.run(ensure_topics(broker.address))
            with KafkaLog(broker.address, KEYS, run_id=run_id, metrics=Metrics()) as log:
                yield log
        finally:
            broker.stop()
