"""The supervisor's process: `python -m esper.weatherlight --data-dir D`.

Clients start it; nobody else needs to. It ends by itself when its last client has gone. At most one runs per data
folder: one that finds another at work ends at once, and one that finds another on its way out waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Final

from esper.weatherlight import endpoint
from esper.weatherlight.supervisor import Supervisor

HANDOVER_S: Final = 10.0
"""How long to wait for a supervisor on its way out: twice what it may take."""

logger = logging.getLogger(__name__)


def main() -> int:
    """Supervise until the last lease ends; 0 also where another supervisor is at work already."""
    parser = argparse.ArgumentParser(
        prog="python -m esper.weatherlight", description="The supervisor of a data folder."
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir: Path = parser.parse_args().data_dir.resolve()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    deadline = time.monotonic() + HANDOVER_S
    while (lock := endpoint.take_lock(data_dir)) is None:
        connection = endpoint.connect(data_dir)
        if connection is not None:
            connection.close()
            return 0
        if time.monotonic() > deadline:
            logger.error("another process holds %s but does not answer", data_dir / "run" / endpoint.LOCK_NAME)
            return 1
        time.sleep(0.02)
    with lock:
        asyncio.run(Supervisor(data_dir, os.environ.get("ESPER_BROKERS") or None).serve())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
