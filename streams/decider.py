"""The decider's process: Tamiyo alone, so that nothing slows a decision. `python -m streams.decider --help`."""

from __future__ import annotations

import sys

from streams.agents import tamiyo
from streams.process import main

if __name__ == "__main__":
    sys.exit(main("decider", "Answers the state packets of every run on the log.", tamiyo.furnish, urgent=True))
