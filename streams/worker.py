"""The worker's process: the agents that may take their time. `python -m streams.worker --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from streams.agents import karn, nissa, stages, urza
from streams.entry import by_hand
from streams.process import AgentContext, run_agents

DESCRIPTION = "Tells the catalogue, keeps kernels, turns events into metrics and alerts, judges staged policies."


async def setup(context: AgentContext) -> None:
    """All agents of the worker."""
    library = await urza.setup(context)
    await karn.setup(context, library)
    await nissa.setup(context)
    await stages.setup(context)


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Work until SIGTERM or SIGINT. Raises EsperError."""
    run_agents("worker", setup, arguments, messages, DESCRIPTION)


if __name__ == "__main__":
    sys.exit(by_hand("worker", run))
