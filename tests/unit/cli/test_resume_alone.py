"""A run that another command trains is not taken over by mistake: a run, its control run, and a fork."""

from __future__ import annotations

import pytest

from esper.cli.resume import trained_by

CLIENTS = ("esper run aaaa", "esper fork bbbb", "esper resume cccc", "esper up")


@pytest.mark.parametrize(
    ("run_id", "command"),
    [
        ("aaaa", "esper run"),
        ("aaaa-control", "esper run"),
        ("aaaa-static", "esper run"),
        ("bbbb", "esper fork"),
        ("aaa", ""),
        ("cccc", ""),  # of two that resume a run at once the log lets one win
    ],
)
def test_whoever_began_it_and_trains_it_is_named(run_id, command):
    assert trained_by(run_id, CLIENTS) == command
