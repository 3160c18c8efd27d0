"""The example job of the feed as a fork of a process that has torch already."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TextIO

from streams.feed.outcome import main


def run(arguments: Sequence[str], messages: TextIO) -> int:
    """What `python -m streams.feed.outcome` runs; `messages` is its stdout."""
    with contextlib.redirect_stdout(messages):
        return main(arguments)
