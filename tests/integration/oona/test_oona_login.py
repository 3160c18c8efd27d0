"""A log that asks for a login is entered as the settings say, by every client of ours; a wrong one is named at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from esper.errors import LogUnavailable
from streams import access
from streams.broker.launch import start_broker
from streams.consumer import ends_of
from streams.feed.log_reader import LogReader
from streams.topics import ensure_topics

AT_ONCE_S = 5.0


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The embedded log as somebody else's: its secret is known from the environment alone."""
    broker = start_broker(tmp_path)
    (secret,) = (tmp_path / "log").glob("secret")
    monkeypatch.setattr(access, "_FOLDERS", {})
    for name, value in {
        "BROKERS": broker.address,
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_USERNAME": "esper",
        "SASL_PASSWORD_FILE": str(secret),
    }.items():
        monkeypatch.setenv(f"ESPER_{name}", value)
    yield broker.address
    broker.stop()


def feed(address):
    with LogReader(address) as reader:
        reader.connect(["esper.runs"])


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SASL_USERNAME", "somebody", "user or password is wrong (SASL_PLAINTEXT, PLAIN, user 'somebody')"),
        ("SASL_MECHANISM", "SCRAM-SHA-256", "it offers another login (SASL_PLAINTEXT, SCRAM-SHA-256, user 'esper')"),
    ],
)
def test_a_login_is_one_of_the_settings_and_a_wrong_one_is_named_at_once(outside, monkeypatch, variable, value, said):
    asyncio.run(ensure_topics(outside))
    assert len(ends_of(outside)) == 8
    feed(outside)
    monkeypatch.setenv(f"ESPER_{variable}", value)
    for enter in (lambda address: asyncio.run(ensure_topics(address)), ends_of, feed):
        began = time.monotonic()
        with pytest.raises(LogUnavailable) as refused:
            enter(outside)
        assert time.monotonic() - began < AT_ONCE_S
        assert str(refused.value).startswith(f"the log at {outside} does not let us in: {said}")
