"""What client libraries complain of is let through once in ten seconds; what Esper says always is."""

from __future__ import annotations

import logging

import pytest

from streams.entry import Repeats


def record(name, message, *arguments):
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, arguments, None)


@pytest.fixture
def repeats(monkeypatch):
    """The filter with a clock that the test moves."""
    repeats = Repeats()
    repeats.now = 0.0
    monkeypatch.setattr("streams.entry.time.monotonic", lambda: repeats.now)
    return repeats


def test_a_clients_complaint_passes_once_and_again_after_ten_seconds(repeats):
    complaint = record("aiokafka.client", "Unable connect to %s", "a")

    assert repeats.filter(complaint)
    assert not repeats.filter(record("aiokafka.client", "Unable connect to %s", "b"))
    repeats.now = 9.9
    assert not repeats.filter(complaint)
    repeats.now = 10.0
    assert repeats.filter(complaint)


def test_another_complaint_and_whatever_esper_says_always_pass(repeats):
    assert repeats.filter(record("aiokafka.client", "Unable connect to %s", "a"))

    assert repeats.filter(record("aiokafka.client", "Something else"))
    assert all(repeats.filter(record("streams.reader", "refused %s", "x")) for _ in range(3))
