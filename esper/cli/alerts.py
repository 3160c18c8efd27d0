"""`esper alerts`: the alerts of a history, and what a person says about them, as events on the log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import AlertAcknowledged, AlertResendRequested, AlertsSilenced
from contracts.topics import EMERGENCY
from esper.cli.blueprints.compile import of_a_person
from esper.cli.history import check_writable, history_of, wait_for_archive
from esper.cli.output import RED, YELLOW, say, say_json, say_json_rows, styled, table
from esper.errors import EsperError, InvalidInput
from esper.nissa.alerts import BY_RULE
from esper.weatherlight import client
from projections.alert_queries import Row, alerts
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.producer import publish_once
from streams.settings import Settings

ARCHIVE_S: Final = 30.0
SHOWN: Final = 8
"""Hex digits of an id that a list shows, from its end: ids that follow one event begin alike."""
HEADERS: Final = ("alert", "rule", "run", "fired", "cleared", "value", "limit", "told", "known to")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
EVERY: Final = "all"


def list_command(data_dir: Path, address: str | None, limit: int, *, active: bool, as_json: bool) -> None:
    """Print the newest alerts."""
    found = _alerts(data_dir, address)
    shown = [each for each in found if each["cleared_at"] is None or not active][:limit]
    if as_json:
        say_json_rows(shown)
        return
    if not shown:
        say("no alert is on" if active else "no alert has fired")
        return
    say(table(HEADERS, [_cells(each) for each in shown], right=(5, 6)))
    for each in shown:
        if each["failed"]:
            say(
                f"{each['id'][-SHOWN:]}: {', '.join(each['failed'])} did not take it ({each['error']}); "
                "`esper alerts resend` tries again"
            )


def acknowledge_command(data_dir: Path, word: str, *, by: str, note: str, as_json: bool) -> None:
    """Record who knows of an alert, and say so."""
    alert, who = acknowledge(data_dir, word, by=by, note=note)
    _tell(as_json, f"{alert['rule']} of {alert['run_id']} is known to {who}", alert_id=alert["id"], by=who, note=note)


def acknowledge(data_dir: Path, word: str, *, by: str, note: str) -> tuple[Row, str]:
    """Record who knows of the alert that `word` means; the alert and the person, once the archive has it.

    Raises InvalidInput where the word means none or several, and where nobody is named.
    """
    alert, who = _meant(_alerts(data_dir), word), _person(by)
    _say(data_dir, [AlertAcknowledged(alert_id=bytes(alert["alert_id"]), rule=alert["rule"], by=who, note=note)])
    return alert, who


def silence_command(data_dir: Path, rule: str, lasting: str, *, run: str, by: str, reason: str, as_json: bool) -> None:
    """Record that nobody is to be told for a while."""
    if rule != EVERY and rule not in BY_RULE:
        raise InvalidInput(f"there is no alert {rule!r}; there are {', '.join(BY_RULE)}, and `{EVERY}` is every one")
    seconds, who = _seconds(lasting), _person(by)
    until_ns = time.time_ns() + seconds * 10**9
    named = "" if rule == EVERY else rule
    _say(data_dir, [AlertsSilenced(rule=named, of_run=run, until_ns=until_ns, by=who, reason=reason)])
    what = f"{named or 'every alert'}{f' of {run}' if run else ''}"
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(until_ns / 1e9))
    line = f"nobody is told of {what} until {until}" if seconds else f"people are told of {what} again"
    _tell(as_json, line, rule=named, run=run, until=until, by=who, reason=reason)


def resend_command(data_dir: Path, word: str, *, by: str, as_json: bool) -> None:
    """Record that what failed is to be tried again."""
    found, who = _alerts(data_dir), _person(by)
    meant = [_meant(found, word)] if word else found
    bodies = [
        AlertResendRequested(alert_id=bytes(alert["alert_id"]), channel=channel, by=who)
        for alert in reversed(meant)
        for channel in alert["failed"]
    ]
    if not bodies:
        raise InvalidInput("every channel that was tried took it: there is nothing to send again")
    _say(data_dir, bodies)
    _tell(
        as_json,
        f"{len(bodies)} messages are sent again: `esper alerts list` says what becomes of them",
        sent=len(bodies),
    )


def try_command(channel: str, *, as_json: bool) -> None:
    """Send a test by one channel."""
    from streams.agents.notify import Refused, send_test  # noqa: PLC0415  it imports a web client

    try:
        asyncio.run(send_test(Settings.load(), channel))
    except Refused as refused:
        raise EsperError(f"{channel} did not take the message: {refused}") from None
    _tell(as_json, f"{channel} took the message", channel=channel, delivered=True)


def _alerts(data_dir: Path, address: str | None = None) -> list[Row]:
    with history_of(data_dir, address) as history:
        return alerts(history)


def _cells(row: Row) -> tuple[Any, ...]:
    on = row["cleared_at"] is None
    return (
        row["id"][-SHOWN:].lower(),
        styled(row["rule"], RED if on else YELLOW),
        row["run_id"],
        f"{row['fired_at']:%Y-%m-%d %H:%M:%S}",
        "on" if on else f"{row['cleared_at']:%Y-%m-%d %H:%M:%S}",
        f"{row['value']:g}",
        f"{row['threshold']:g}",
        ", ".join(row["delivered"]) or "nobody",
        row["said_by"] or "",
    )


def _meant(found: Sequence[Row], word: str) -> Row:
    wanted = word.upper().replace("-", "")
    matches = [each for each in found if wanted and (each["id"].startswith(wanted) or each["id"].endswith(wanted))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{word!r} is in the ids of {len(matches)} alerts: type more of it")
    raise InvalidInput(f"there is no alert {word!r}; `esper alerts list` lists them")


def _person(by: str) -> str:
    if not by.strip():
        raise InvalidInput("say who you are with --by")
    return by.strip()


def _seconds(lasting: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smhd])", lasting.strip())
    if found is None:
        raise InvalidInput(f"--for {lasting!r} is no time: 30m, 2h and 1d are")
    return int(found[1]) * _UNITS_S[found[2]]


def _say(data_dir: Path, bodies: Sequence[Any]) -> None:
    """Write what a person says, and wait until the archive has it: the next command reads it there."""
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    events = [of_a_person(body) for body in bodies]
    with client.join(data_dir, client="esper alerts", brokers=settings.brokers) as lease:
        lease.wait_ready()
        asyncio.run(publish_once(lease.brokers, ring, events))
        ends = ends_of(lease.brokers, (EMERGENCY,))
        wait_for_archive(data_dir, ends, ARCHIVE_S, lambda _to_go: None, lease.unwritable)


def _tell(as_json: bool, line: str, **figures: Any) -> None:  # noqa: FBT001
    say_json(figures) if as_json else say(line)
