"""The decider's process: Tamiyo alone, so that nothing slows a decision. `python -m streams.decider --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from streams.agents import tamiyo
from streams.entry import by_hand
from streams.process import run_agents

DESCRIPTION = "Answers the state packets of every run on the log."


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Decide until SIGTERM or SIGINT. Raises EsperError."""
    run_agents("decider", tamiyo.setup, arguments, messages, DESCRIPTION, urgent=True)


if __name__ == "__main__":
    sys.exit(by_hand("decider", run))
