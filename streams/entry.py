"""How a process of the log begins and ends: its arguments, what it writes to its log, and how it says that it is ready.

A process has a function `run(arguments, messages)`, which raises what is wrong with it. Weatherlight forks it
(`esper.weatherlight.forkserver`); by hand it is `python -m` of its module, through `by_hand`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from esper.errors import EsperError, InvalidInput
from esper.leyline.signing import KeyRing
from streams.access import know_own
from streams.keys import load_key_ring
from streams.settings import Settings

AGAIN_S: Final = 10.0
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CLIENTS: Final = ("aiokafka", "faust", "mode", "kafka")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process works: the settings, the address of the log and its keys."""

    settings: Settings
    brokers: str
    ring: KeyRing


def parser_of(module: str, description: str) -> argparse.ArgumentParser:
    """The arguments that all processes of the log take."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS)")
    return parser


def place_of(options: argparse.Namespace) -> Place:
    """Where the arguments and the environment send a process; its folder `run/` is there. Raises InvalidInput."""
    settings = Settings.load(data=options.data_dir)
    brokers = options.brokers or settings.brokers
    if brokers is None:
        raise InvalidInput("no log to talk to: give --brokers HOST:PORT or set ESPER_BROKERS")
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    know_own(brokers, settings)
    return Place(settings, brokers, load_key_ring(settings, brokers))


def by_hand(name: str, run: Callable[[Sequence[str], TextIO], int | None]) -> int:
    """Run a process with its command line, until SIGTERM or SIGINT; the exit code.

    A foreseen error is one line on stderr and exit code 1; where a program reads stdout, it is a message there as well.
    """
    try:
        return run(sys.argv[1:], sys.stdout) or 0
    except EsperError as error:
        sys.stderr.write(f"{name}: {error}\n")
        if not sys.stdout.isatty():
            sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1


def announce(name: str, run_folder: Path, health_port: int, messages: TextIO, **more: Any) -> None:
    """Say that the process is ready: a line for who started it, a list of targets for Prometheus and `esper doctor`."""
    run_folder.mkdir(parents=True, exist_ok=True)
    _write_target(run_folder / f"{name}.json", name, health_port)
    messages.write(json.dumps({"ready": True, "health_port": health_port, **more}) + "\n")
    messages.flush()


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


def end_in(seconds: float) -> None:
    """End the process at the latest so many seconds from now, whatever waits for a dead broker then.

    Nothing is lost by that: what was not committed is read again.
    """
    timer = threading.Timer(seconds, lambda: os._exit(0))
    timer.daemon = True
    timer.start()


class Repeats(logging.Filter):
    """Lets a message of a client library through once in ten seconds, whatever its arguments.

    aiokafka reports every failed attempt to reach a broker, twenty times a second.
    """

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


def log_to_stderr() -> None:
    """Log warnings, one line each; client libraries are silent until `clients_may_warn` is called.

    While a process starts, its own one-line error says better what is wrong.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def clients_may_warn() -> None:
    """The process runs: what its client libraries warn of is news from now on."""
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)
