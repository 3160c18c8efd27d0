"""The worker's process: the agents that may take their time. `python -m streams.worker --help`."""

from __future__ import annotations

import sys

from streams.agents import nissa
from streams.process import main

if __name__ == "__main__":
    sys.exit(main("worker", "Turns events into metrics and alerts.", nissa.furnish))
