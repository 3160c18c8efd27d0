"""The broker process: `python -m streams.broker --data-dir D [--port P | --fd N] [--anonymous]`.

Serves the log in D/log on 127.0.0.1. When ready it prints one line of JSON with its "host", "port", "pid" and
"health_port", and nothing more; what the operator should know goes to stderr. SIGTERM or SIGINT stops it cleanly; by
hand it also stops when the process (on Linux: the thread) that started it dies. `--fd` takes over a listening socket,
so that a restart keeps the port.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from esper.errors import LogUnavailable
from streams.broker.launch import announce_address, withdraw_address
from streams.broker.server import Broker, listening_socket
from streams.entry import announce, by_hand

_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """A broker by hand, which dies with the process (on Linux: the thread) that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return by_hand("esper broker", run)


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Serve until SIGTERM or SIGINT. Raises LogUnavailable and InvalidInput."""
    parser = argparse.ArgumentParser(prog="python -m streams.broker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="the data folder; the log is its sub-folder log/")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    where.add_argument("--fd", type=int, help="descriptor of a socket that listens already")
    parser.add_argument("--anonymous", action="store_true", help="let in clients that do not name the log's secret")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s broker: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        sock = listening_socket(options.port) if options.fd is None else socket.socket(fileno=options.fd)
        _allow_open_files()
        asyncio.run(_serve(options.data_dir, sock, messages, anonymous=options.anonymous))
    except (OSError, sqlite3.Error) as error:
        raise LogUnavailable(str(error)) from error


def _allow_open_files() -> None:
    """Takes all the descriptors that the system grants: two per partition and one per client are needed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(data_dir: Path, sock: socket.socket, messages: TextIO, *, anonymous: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(data_dir / "log", anonymous=anonymous)
    try:
        await broker.start(sock)
        gc.freeze()  # what is alive now stays: no collection need look at it again
        host, port = sock.getsockname()[:2]
        announce_address(data_dir, f"{host}:{port}")
        announce("broker", data_dir / "run", broker.health.port, messages, host=host, port=port, pid=os.getpid())
        await stop.wait()
    finally:
        withdraw_address(data_dir)
        await broker.stop()


if __name__ == "__main__":
    sys.exit(main())
