"""Who is told of an alert, and in which form: a pure fold of the alerts and of what became of telling.

A channel is told of what its rule names; a webhook, where one is configured, of everything. What was delivered is not
sent again, what a person silenced is not sent at all, and what could not be delivered waits until a person asks for it
again. Forms: Slack's incoming webhooks (`text`), PagerDuty's Events API v2 (`routing_key`, `event_action`, `dedup_key`,
`payload`), and one JSON object of our own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from esper.leyline.envelope import Event, body_name, body_of
from esper.nissa.alerts import BY_RULE

CHANNELS: Final = ("slack", "pagerduty", "email", "webhook")
TOLD_FOR_NS: Final = 3_600 * 10**9
"""An alert that is older when a process begins is history, and nobody is woken for it."""
REMEMBERED: Final = 1_000
"""Alerts of which it is known what became of them; the oldest are forgotten."""
ALERTS: Final = frozenset({"alert_fired", "alert_cleared"})


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert as a person is told of it. `key` is the same for an alert that fires and for the one that clears it."""

    alert_id: bytes
    rule: str
    scope: str
    active: bool
    value: float
    description: str
    suggested_action: str
    at_ns: int

    @property
    def key(self) -> str:
        """What of one cause belongs together."""
        return f"esper/{self.rule}/{self.scope}"

    @property
    def title(self) -> str:
        """In one line."""
        return f"{'fired' if self.active else 'cleared'}: {self.rule} of {self.scope or 'the forge'} at {self.value:g}"

    @property
    def text(self) -> str:
        """In full."""
        lines = [f"Esper: {self.title}"]
        if self.active:
            lines += [self.description, f"What to do: {self.suggested_action}"]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Silence:
    """What a person wants to hear nothing of; an empty name is every one."""

    rule: str
    run: str
    until_ns: int

    def covers(self, notice: Notice) -> bool:
        """Whether the alert came while it lasted."""
        return notice.at_ns < self.until_ns and self.rule in {"", notice.rule} and self.run in {"", notice.scope}


@dataclass(frozen=True, slots=True)
class Told:
    """What is known: notices by their alert's id, the oldest first, and silences.

    Of each notice and channel: whether it is `settled`, delivered or given up, and whether a person `asked` for it.
    """

    notices: Mapping[bytes, Notice] = field(default_factory=dict)
    settled: frozenset[tuple[bytes, str]] = frozenset()
    asked: frozenset[tuple[bytes, str]] = frozenset()
    silences: tuple[Silence, ...] = ()


def evolve_told(told: Told, event: Event) -> Told:
    """What is known after an event; those that are not about alerts change nothing."""
    name, body = body_name(event), body_of(event)
    if name in ALERTS:
        kept = {**told.notices, event.event_id: notice_of(event)}
        gone = list(kept)[: max(0, len(kept) - REMEMBERED)]
        notices = {each: notice for each, notice in kept.items() if each not in gone}
        return replace(told, notices=notices, settled=frozenset(each for each in told.settled if each[0] in notices))
    if name == "alert_notified":
        key = {(body.alert_id, body.channel)}
        return replace(told, settled=told.settled | key, asked=told.asked - key)
    if name == "alert_resend_requested":
        return replace(told, asked=told.asked | {(body.alert_id, body.channel)})
    if name == "alerts_silenced":
        others = tuple(each for each in told.silences if (each.rule, each.run) != (body.rule, body.of_run))
        return replace(told, silences=(*others, Silence(body.rule, body.of_run, body.until_ns)))
    return told


def due(told: Told, channels: Collection[str], now_ns: int) -> list[tuple[Notice, str]]:
    """Who is to be told of what now, by which of the `channels` that there are; the oldest first."""
    return [
        (notice, channel)
        for notice in told.notices.values()
        for channel in CHANNELS
        if channel in channels and ((notice.alert_id, channel) in told.asked or _is_due(told, notice, channel, now_ns))
    ]


def _is_due(told: Told, notice: Notice, channel: str, now_ns: int) -> bool:
    """Whether it is due without a person's asking."""
    return (
        channel in (*routes_of(notice.rule), "webhook")
        and (notice.alert_id, channel) not in told.settled
        and now_ns - notice.at_ns < TOLD_FOR_NS
        and not any(silence.covers(notice) for silence in told.silences)
    )


def routes_of(rule: str) -> tuple[str, ...]:
    """The channels that a rule names; none of a rule that only another Esper has."""
    return BY_RULE[rule].routes if rule in BY_RULE else ()


def notice_of(event: Event) -> Notice:
    """An alert event as a person is told of it."""
    active, body = body_name(event) == "alert_fired", body_of(event)
    return Notice(
        alert_id=event.event_id,
        rule=body.rule,
        scope=event.run_id,
        active=active,
        value=body.value,
        description=body.description if active else "",
        suggested_action=body.suggested_action if active else "",
        at_ns=event.recorded_at_ns,
    )


def slack(notice: Notice) -> dict[str, Any]:
    """The body of a message to one of Slack's incoming webhooks, or to what understands them."""
    return {"text": notice.text}


def pagerduty(notice: Notice, routing_key: str) -> dict[str, Any]:
    """The body of an event of PagerDuty's Events API v2; what clears resolves what fired."""
    told: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "trigger" if notice.active else "resolve",
        "dedup_key": notice.key,
    }
    if notice.active:
        told["payload"] = {
            "summary": notice.title,
            "source": notice.scope or "esper",
            "severity": "critical",
            "component": "esper",
            "custom_details": {"description": notice.description, "action": notice.suggested_action},
        }
    return told


def webhook(notice: Notice) -> dict[str, Any]:
    """The body of a message to a webhook of one's own."""
    return {
        "alert_id": notice.alert_id.hex(),
        "rule": notice.rule,
        "run": notice.scope,
        "state": "fired" if notice.active else "cleared",
        "value": notice.value,
        "description": notice.description,
        "suggested_action": notice.suggested_action,
        "at_unix_ns": notice.at_ns,
    }
