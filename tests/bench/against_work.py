"""What `against` has each of the two trees do: run by that tree's own Python, in its folder, one line of JSON a step.

It uses only what trees of some age have. Steps come on stdin, each by its name; the answer is processor seconds.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))  # the tree that is measured, not the folder of this file

import psutil

from projections import open_history, questions
from projections.generated import history, records
from streams.broker.launch import start_broker
from streams.records import headers_of
from streams.topics import ensure_topics
from tests.bench import archive as fixture
from tests.bench import archive_history
from tests.bench.burst import encoded, offer

RUSH = 1e9
"""Records a second that are never reached: requests follow one another at once."""
REQUEST = 200
"""Records of a request that was encoded beforehand: as few as a trainer's, since a broker's work is by the request."""
PASSES = 3
"""How often a publication publishes the records."""


class Work:
    """A broker on an empty folder, signed records for it, and the archive in `kept` for the questions."""

    def __init__(self, stack: ExitStack, kept: Path, events: int, archived: int, offers: int, asks: int) -> None:
        self._kept, self._archived, self._offers, self._asks = kept, archived, offers, asks
        self._stack, self._count = stack, 0
        self._data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        named = inspect.signature(start_broker).parameters
        options: dict[str, Any] = {"anonymous": True} if "anonymous" in named else {}
        broker = start_broker(self._data, **options)
        stack.callback(broker.stop)
        self._address, self._broker = broker.address, psutil.Process(broker.pid)
        asyncio.run(ensure_topics(self._address))
        made = records(history(events))
        self._signed = [(record, headers_of(fixture.RING.sign(record.value or b""))) for record in made]
        parts = (self._signed[start : start + REQUEST] for start in range(0, len(self._signed), REQUEST))
        self._encoded = [request for part in parts for request in encoded(part)]
        gc.collect()
        gc.freeze()  # a producer holds neither these records nor a benchmark's modules, and looks for no rubbish there

    def make(self) -> float:
        """The archive that is asked, where it is not there yet."""
        began = time.process_time()
        if not any(self._kept.glob("files/*")):
            archive_history.make(self._kept, self._archived)
        return time.process_time() - began

    def publish(self) -> float:
        """All records through aiokafka's producer, acknowledged: this process and the broker together."""
        began = time.process_time() + _used(self._broker)
        for _ in range(PASSES):
            asyncio.run(fixture.produce(self._address, self._signed))
            self._count += len(self._signed)
        return time.process_time() + _used(self._broker) - began

    def offer(self) -> float:
        """Requests encoded beforehand, many times: the broker alone, which a client would drown."""
        began = _used(self._broker)
        for _ in range(self._offers):
            asyncio.run(offer(self._address, self._encoded, RUSH))
        return _used(self._broker) - began

    def drain(self) -> float:
        """All that is on the log by then, by an archiver process that is ready: that process alone."""
        with fixture.archiver(self._data, self._address) as process:
            measured = psutil.Process(process.pid)
            began = _used(measured)
            fixture.until(self._data, self._count)
            return _used(measured) - began

    def query(self) -> float:
        """Every standard question, rows fetched, on one thread; the history is open and warm."""
        with open_history(self._kept) as opened:
            opened.connection.execute("SET threads=1")
            event = "SELECT run_id, event_id FROM log.adaptation_command ORDER BY run_id LIMIT 1"
            run, event = opened.execute(event).fetchone()
            given = {"run": run, "step": 2_500, "event": event}
            asked = [(text, {key: value for key, value in given.items() if f"${key}" in text}) for text in _questions()]
            _ask(opened, asked)
            began = time.process_time()
            for _ in range(self._asks):
                _ask(opened, asked)
            return time.process_time() - began


def _questions() -> list[str]:
    return [questions.text(name) for name in questions.names()]


def _ask(opened: Any, asked: list[tuple[str, dict[str, Any]]]) -> None:
    for text, given in asked:
        opened.connection.execute(text, given).fetchall()


def _used(process: psutil.Process) -> float:
    """Seconds of the processor that all its threads have had, in hundredths."""
    return float(sum(process.cpu_times()[:2]))


def main() -> None:
    """Say that it is ready, then do what each line names."""
    kept, *counts = sys.argv[1:]
    with ExitStack() as stack:
        work = Work(stack, Path(kept), *map(int, counts))
        steps: dict[str, Callable[[], float]] = {
            name: getattr(work, name) for name in ("make", "publish", "offer", "drain", "query")
        }
        say("ready")
        for line in sys.stdin:
            say(steps[line.strip()]())


def say(what: float | str) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
