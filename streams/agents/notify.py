"""Tells people of alerts: by Slack, PagerDuty, mail or a webhook, each where it is configured, and by none otherwise.

What is to be sent is a fold of the log (`esper.nissa.notices`), and so is what became of it: every delivery, and every
one that was given up after three attempts, is an event. A process that dies between sending and saying so sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from email.message import EmailMessage
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from contracts.leyline.v1.event_pb2 import AlertNotified
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.nissa import notices
from esper.nissa.notices import Notice, Told, due, evolve_told
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.settings import Settings

ATTEMPTS: Final = 3
PAUSES_S: Final = (1.0, 4.0)
"""Between the attempts at one delivery."""
ANSWER_S: Final = 5.0
LOG_PAUSE_S: Final = 2.0
SMTP_PORTS: Final = {"smtp": 587, "smtps": 465}
FIRST_ERROR: Final = 400

Send = Callable[[Notice], Awaitable[None]]
"""Delivers one notice; raises `Refused` where it was not taken."""

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A channel did not take a notice; in words that hold no secret."""


class Notifier:
    """Folds what is known of alerts, and tells of what is due in tasks of its own: no agent waits for a web server."""

    def __init__(
        self,
        channels: Mapping[str, Send],
        publisher: Publisher,
        metrics: Metrics,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._channels = channels
        self._publisher = publisher
        self._metrics = metrics
        self._pauses_s = pauses_s
        self._told = Told()
        self._sending: dict[tuple[bytes, str], asyncio.Task[None]] = {}

    def configured(self, route: str) -> bool:
        """Whether anybody is reached by this channel."""
        return route in self._channels

    def recall(self, event: Event) -> None:
        """Take in an event from before; nothing is sent yet."""
        self._told = evolve_told(self._told, event)

    def take(self, event: Event) -> None:
        """Take in an event, and begin to send what is due."""
        self.recall(event)
        self.send_due()

    def send_due(self) -> None:
        """Begin to send what is due and is not under way."""
        for notice, channel in due(self._told, self._channels, time.time_ns()):
            key = notice.alert_id, channel
            if key not in self._sending:
                self._sending[key] = asyncio.create_task(self._deliver(notice, channel))
                self._sending[key].add_done_callback(partial(self._over, key))

    def _over(self, key: tuple[bytes, str], task: asyncio.Task[None]) -> None:
        del self._sending[key]
        if not task.cancelled() and task.exception() is not None:
            logger.error("an alert could not be told of by %s", key[1], exc_info=task.exception())

    async def _deliver(self, notice: Notice, channel: str) -> None:
        error = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._channels[channel](notice)
            except Refused as refused:
                error = str(refused)[:FIRST_ERROR]
                logger.warning("alert %s was not taken by %s: %s", notice.rule, channel, error)
                if attempt < ATTEMPTS:
                    await asyncio.sleep(self._pauses_s[attempt - 1])
            else:
                await self._say(notice, channel, attempt, "")
                return
        await self._say(notice, channel, ATTEMPTS, error)

    async def _say(self, notice: Notice, channel: str, attempts: int, error: str) -> None:
        outcome = "given_up" if error else "delivered"
        self._metrics.count("esper_nissa_notifications_total", channel=channel, outcome=outcome)
        body = AlertNotified(
            alert_id=notice.alert_id,
            rule=notice.rule,
            channel=channel,
            delivered=not error,
            attempts=attempts,
            error=error,
        )
        now_ns = time.time_ns()
        event = new_event(
            body,
            event_id=ids.uuid7(now_ns, os.urandom(10)),
            run_id=notice.scope,
            producer="nissa",
            recorded_at_ns=now_ns,
            causation_id=notice.alert_id,
        )
        self._told = evolve_told(self._told, event)
        while True:
            try:
                await self._publisher.publish([event])
            except LogUnavailable as away:
                logger.warning("that an alert was told of waits for the log: %s", away)
                await asyncio.sleep(LOG_PAUSE_S)
            else:
                return


def channels_of(settings: Settings) -> dict[str, Send]:
    """The channels that are configured. Raises InvalidInput for an address that is none."""
    found: dict[str, Send] = {}
    if settings.alert_slack_url is not None:
        found["slack"] = _posts(_web(settings, "alert_slack_url"), notices.slack)
    if settings.alert_webhook_url is not None:
        found["webhook"] = _posts(_web(settings, "alert_webhook_url"), notices.webhook)
    if settings.alert_pagerduty_key is not None:
        key = settings.alert_pagerduty_key.get_secret_value()
        url = _web(settings, "alert_pagerduty_url")
        found["pagerduty"] = _posts(url, lambda notice: notices.pagerduty(notice, key))
    if settings.alert_smtp_url is not None and settings.alert_email_to is not None:
        found["email"] = _mails(settings)
    return found


def _web(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    url = value if isinstance(value, str) else value.get_secret_value()
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(f"ESPER_{name.upper()} is no address of the web: it begins with http:// or https://")
    return str(url)


def _posts(url: str, body: Callable[[Notice], dict[str, Any]]) -> Send:
    async def send(notice: Notice) -> None:
        import httpx  # noqa: PLC0415  a quarter of a second, and only where somebody is to be told

        host = urlsplit(url).hostname  # the rest of such an address is a secret
        try:
            async with httpx.AsyncClient(timeout=ANSWER_S) as client:
                answer = await client.post(url, json=body(notice))
        except httpx.HTTPError as error:
            raise Refused(f"{host}: {type(error).__name__}") from None
        if not answer.is_success:
            raise Refused(f"{host} answers {answer.status_code} {answer.reason_phrase}")

    return send


def _mails(settings: Settings) -> Send:
    assert settings.alert_smtp_url is not None
    assert settings.alert_email_to is not None
    parts = urlsplit(settings.alert_smtp_url.get_secret_value())
    try:
        port = parts.port or SMTP_PORTS.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if parts.scheme not in SMTP_PORTS or not parts.hostname or not port:
        raise InvalidInput("ESPER_ALERT_SMTP_URL is no smtp://[USER:PASSWORD@]HOST[:PORT], nor the same with smtps://")
    host, receiver = parts.hostname, settings.alert_email_to
    sender = settings.alert_email_from or receiver.partition(",")[0].strip()

    async def send(notice: Notice) -> None:
        import aiosmtplib  # noqa: PLC0415  as httpx

        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = sender, receiver, f"Esper: {notice.title}"
        message["Message-ID"] = f"<{notice.alert_id.hex()}@esper>"
        message.set_content(notice.text)
        try:
            await aiosmtplib.send(
                message,
                hostname=host,
                port=port,
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                use_tls=parts.scheme == "smtps",
                timeout=ANSWER_S,
            )
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise Refused(f"{host}:{port}: {type(error).__name__}") from None

    return send


async def send_test(settings: Settings, channel: str) -> None:
    """Send a notice that is plainly a test; raises `Refused`, and InvalidInput where the channel is not configured."""
    channels = channels_of(settings)
    if channel not in channels:
        raise InvalidInput(f"{channel} is not configured: {VARIABLES[channel]}")
    now_ns = time.time_ns()
    notice = Notice(
        alert_id=ids.uuid7(now_ns, os.urandom(10)),
        rule="test",
        scope="nothing",
        active=True,
        value=0.0,
        description="A test: nothing is wrong.",
        suggested_action="Nothing; alerts reach you here.",
        at_ns=now_ns,
    )
    await channels[channel](notice)
    with contextlib.suppress(Refused):  # what a test triggered is resolved; a channel that takes the one takes both
        if channel == "pagerduty":
            await channels[channel](Notice(**{**_fields(notice), "active": False}))


def _fields(notice: Notice) -> dict[str, Any]:
    return {name: getattr(notice, name) for name in Notice.__slots__}


VARIABLES: Final = {
    "slack": "set ESPER_ALERT_SLACK_URL to the address of an incoming webhook",
    "pagerduty": "set ESPER_ALERT_PAGERDUTY_KEY to the routing key of a service's Events API v2",
    "email": "set ESPER_ALERT_SMTP_URL and ESPER_ALERT_EMAIL_TO",
    "webhook": "set ESPER_ALERT_WEBHOOK_URL",
}
