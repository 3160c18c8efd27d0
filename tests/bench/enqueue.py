"""How long the training loop is held up by an event: `python -m tests.bench.enqueue`.

Timed in the trainer itself: `digits` trains with its step samples, packets, digests and checkpoints going to an
embedded broker, and every call of `KafkaLog.publish` counts. So the caches are as cold as a training step leaves them,
and the sending thread wants the interpreter at the same time. Making the event (ids, clock, envelope) is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from contracts.topics import BY_BODY
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Answer, Log, Outside
from esper.tolaria.tasks import load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.bench.log import kafka_log
from tests.bench.table import HEADER, Row, failed, line

RUN_ID = "bench"


class TimedLog:
    """The log it is given; `took_us` has the microseconds of every `publish`, by the name of the event's body."""

    def __init__(self, log: Log) -> None:
        self.took_us: dict[str, list[float]] = defaultdict(list)
        self._log = log

    def publish(self, event: Event) -> None:
        """Enqueue, on the clock."""
        began = time.perf_counter()
        self._log.publish(event)
        self.took_us[body_name(event)].append((time.perf_counter() - began) * 1e6)

    def flush(self, timeout_s: float = 30.0) -> None:
        """As the log does."""
        self._log.flush(timeout_s)

    def claim(self, event: Event) -> None:
        """As the log does."""
        self._log.claim(event)

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """As the log does."""
        return self._log.await_answer(packet_id, timeout_s)

    def take_commands(self) -> list[Signed]:
        """As the log does."""
        return self._log.take_commands()

    def await_command(self, timeout_s: float) -> None:
        """As the log does."""
        self._log.await_command(timeout_s)

    def shed(self) -> int:
        """As the log does."""
        return self._log.shed()


def measure(epochs: int) -> dict[str, list[float]]:
    """Microseconds of every enqueueing of a run that samples each of its steps, by the name of the event's body."""
    torch.set_num_threads(1)
    config = RunConfig(policy="none", epochs=epochs, telemetry_every_steps=1)
    with kafka_log(RUN_ID) as log, tempfile.TemporaryDirectory() as folder:
        timed = TimedLog(log)
        train(
            config,
            load_task("digits"),
            LiveWorld(Outside(timed, REAL_CLOCK, ObjectStore(Path(folder)), CommandVerifier(KEYS))),
            run_id=RUN_ID,
        )
    return timed.took_us


def rows(*, full: bool = False) -> list[Row]:
    """What nineteen of twenty events take, over all kinds, and what a hundredth of them exceeds."""
    took = measure(200 if full else 40)
    every = [each for each_kind in took.values() for each in each_kind]
    facts = sum(len(each) for name, each in took.items() if not BY_BODY[name].sheddable)
    cuts = statistics.quantiles(every, n=100, method="inclusive")
    fixture = f"digits training, {len(every):,} events, {facts} of them facts"
    return [
        Row("enqueue an event in the trainer, p95", cuts[94], "µs", f"{fixture}, p50 {cuts[49]:.0f} µs", limit=50.0),
        Row("enqueue an event in the trainer, p99", cuts[98], "µs", fixture),
    ]


def main() -> int:
    """Print the rows; 1 where a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="200 epochs instead of 40")
    found = rows(full=parser.parse_args().full)
    sys.stdout.write("\n".join([HEADER, *map(line, found), ""]))
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
