"""Nothing acknowledged dies with one broker of several; a log of one broker is as safe as its disk."""

from __future__ import annotations

import asyncio

from streams.topics import copies_of


def test_a_log_of_one_broker_is_as_safe_as_its_disk(log):
    kept = asyncio.run(copies_of(log.address))

    assert kept.brokers == 1
    assert set(kept.topics.values()) == {(1, 1)}
    assert kept.frail == []
