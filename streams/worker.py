"""The worker's process: the agents that may take their time. `python -m streams.worker --help`."""

from __future__ import annotations

import sys

from streams.agents import karn, nissa, urza
from streams.process import Room, main


async def furnish(room: Room) -> None:
    """All agents of the worker."""
    library = await urza.furnish(room)
    await karn.furnish(room, library)
    await nissa.furnish(room)


if __name__ == "__main__":
    sys.exit(
        main(
            "worker",
            "Tells of the catalogue, keeps the library of kernels, turns events into metrics and alerts.",
            furnish,
        )
    )
