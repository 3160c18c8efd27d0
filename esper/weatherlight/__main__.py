"""The processes of a data folder: `python -P -m esper.weatherlight --data-dir D`.

Clients start it. It imports what the services use, and forks the supervisor and, at the supervisor's orders, them. It
ends when the supervisor does, which is when its last client has gone. At most one runs per data folder: one that finds
another at work ends at once, and one that finds another on its way out waits for it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import socket
import sys
import time
from pathlib import Path
from typing import Final

from esper.weatherlight import endpoint
from esper.weatherlight.forkserver import PARENT_VARIABLE, ForkServer, Order, call_process, preload

HANDOVER_S: Final = 10.0
"""How long to wait for a supervisor on its way out: twice what it may take."""
LIBRARIES: Final = (
    "duckdb",
    "encodings.ascii",
    "faust",
    "faust.app.router",
    "faust.assignor.leader_assignor",
    "faust.assignor.partition_assignor",
    "faust.fixups.django",
    "faust.livecheck",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.topics",
    "faust.transport.drivers.aiokafka",
    "faust.worker",
    "mode.debug",
)
"""What the services import only when they are at work."""


def main() -> int:
    """Serve until the last lease ends; 0 also where another supervisor is at work already."""
    parser = argparse.ArgumentParser(
        prog="python -m esper.weatherlight", description="The supervisor of a data folder."
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir: Path = parser.parse_args().data_dir.resolve()
    call_process("esper-fork")
    os.environ.pop(PARENT_VARIABLE, None)  # it outlives the client that starts it
    deadline = time.monotonic() + HANDOVER_S
    while (lock := endpoint.take_lock(data_dir)) is None:
        connection = endpoint.connect(data_dir)
        if connection is not None:
            connection.close()
            return 0
        if time.monotonic() > deadline:
            held = data_dir / "run" / endpoint.LOCK_NAME
            sys.stderr.write(f"esper: another process holds {held} but does not answer\n")
            return 1
        time.sleep(0.02)
    with lock:
        return _serve(data_dir)


def _serve(data_dir: Path) -> int:
    from esper.weatherlight.supervisor import SERVICES  # noqa: PLC0415 - not where another one is at work already

    sys.modules.setdefault("hypothesis", None)  # type: ignore[arg-type]  # kio imports it where it is installed: 0.1 s
    preload((*SERVICES.values(), *LIBRARIES))
    inspect.getmodule(_serve)  # Faust asks this of every agent, which looks at every module once
    ours, supervisors = socket.socketpair()
    server = ForkServer(ours)
    order = Order("esper-supervisor", "esper.weatherlight.supervisor:run", (str(data_dir),))
    with supervisors, Path(os.devnull).open("r+b") as nothing:
        null = nothing.fileno()
        supervisor = server.fork(order, [null, sys.stderr.fileno(), null, supervisors.fileno()])
    return server.serve(supervisor)


if __name__ == "__main__":
    sys.exit(main())
