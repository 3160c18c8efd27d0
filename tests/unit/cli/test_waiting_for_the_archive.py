"""Nobody waits half a minute for an archive that cannot be written, and nobody gives up one that can."""

from __future__ import annotations

import time

import pytest

from esper.cli.history import UNABLE_S, wait_for_archive
from esper.errors import LogUnavailable

WHY = "the archive cannot be written: [Errno 28] No space left on device"


def test_an_archive_that_cannot_be_written_is_not_waited_for(tmp_path):
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match="No space left on device; the log has what is missing"):
        wait_for_archive(tmp_path, {("esper.runs", 0): 1}, 30.0, lambda: None, lambda: WHY)
    assert UNABLE_S < time.monotonic() - began < 10.0


def test_one_that_is_written_again_soon_is_waited_for(tmp_path):
    """Trouble of a moment is none: the archiver's first restart comes at once."""
    said = [WHY, "", WHY]
    with pytest.raises(LogUnavailable, match=r"lacks the end of esper\.runs still"):
        wait_for_archive(tmp_path, {("esper.runs", 0): 1}, 0.3, lambda: None, lambda: said.pop() if said else "")
