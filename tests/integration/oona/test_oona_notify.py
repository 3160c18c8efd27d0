"""People are told of alerts by real servers of the kinds that they use; who cannot be reached is on record."""

from __future__ import annotations

import http.server
import json
import socket
import threading

import pytest
from aiosmtpd.controller import Controller

from contracts.leyline.v1 import event_pb2
from contracts.topics import EMERGENCY
from esper.errors import InvalidInput
from esper.leyline.envelope import body_name
from streams.agents.notify import Refused, channels_of, send_test
from streams.settings import Settings


class Web:
    """A web server that takes JSON, and refuses at first if told to."""

    def __init__(self, refuse=0):
        self.got, left = [], [refuse]

        class Page(http.server.BaseHTTPRequestHandler):
            def do_POST(page):  # noqa: N805
                body = json.loads(page.rfile.read(int(page.headers["Content-Length"])))
                left[0] -= 1
                page.send_response(503 if left[0] >= 0 else 202)
                page.end_headers()
                if left[0] < 0:
                    self.got.append((page.path, body))

            def log_message(page, *_):  # noqa: N805
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web():
    made = []

    def make(**options):
        made.append(Web(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def mail():
    """A mail server; what it got."""

    class Keep:
        def __init__(self):
            self.got = []

        async def handle_DATA(self, _server, _session, envelope):  # noqa: N802
            self.got.append(envelope)
            return "250 kept"

    keep = Keep()
    with socket.create_server(("127.0.0.1", 0)) as free:
        keep.port = free.getsockname()[1]
    controller = Controller(keep, hostname="127.0.0.1", port=keep.port)
    controller.start()
    yield keep
    controller.stop()


@pytest.mark.requirement("R-NIS-13")
def test_everybody_who_is_configured_is_told_once_and_what_fails_is_on_record(
    own_log, ring, events, processes, read_until, web, mail
):
    """Slack refuses twice and takes the third; the webhook refuses thrice, and has it when a person asks again.

    A restart tells nobody again.
    """
    slack, pages, hook = web(refuse=2), web(), web(refuse=3)
    worker = processes(
        "worker",
        own_log.data_dir,
        own_log.address,
        env={
            "ESPER_ALERT_SLACK_URL": f"{slack.address}/services/T0/secret-of-slack",
            "ESPER_ALERT_PAGERDUTY_KEY": "secret-routing-key",
            "ESPER_ALERT_PAGERDUTY_URL": f"{pages.address}/v2/enqueue",
            "ESPER_ALERT_WEBHOOK_URL": f"{hook.address}/secret-of-the-hook",
            "ESPER_ALERT_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
            "ESPER_ALERT_EMAIL_TO": "ada@example.org",
        },
    )
    slow = [events.fact(event_pb2.EpochCompleted(hook_ms_before=25.0)) for _ in range(3)]
    with own_log_writer(own_log, ring) as writer:
        for epoch in slow:
            writer.publish(epoch)
        writer.flush()
        found = read_until(lambda found: len(notified(found)) == 3, topics=(EMERGENCY,), address=own_log.address)
        worker.kill()
        worker.start()
        fired = next(each.alert_id for each in notified(found) if each.channel == "webhook")
        writer.publish(events.fact(event_pb2.AlertResendRequested(alert_id=fired, channel="webhook", by="ada")))
        writer.flush()
        found = read_until(lambda found: len(notified(found)) == 4, topics=(EMERGENCY,), address=own_log.address)
        sent_again = notified(found)[3]
        writer.publish(events.fact(event_pb2.EpochCompleted(hook_ms_before=5.0)))
        writer.flush()
        found = read_until(lambda found: len(notified(found)) == 7, topics=(EMERGENCY,), address=own_log.address)

    told = {(each.channel, each.delivered, each.attempts) for each in notified(found)[:3]}
    assert told == {("slack", True, 3), ("pagerduty", True, 1), ("webhook", False, 3)}
    assert (sent_again.channel, sent_again.delivered, sent_again.attempts) == ("webhook", True, 1)
    assert [body["state"] for _, body in hook.got] == ["fired", "cleared"]
    assert [body["event_action"] for _, body in pages.got] == ["trigger", "resolve"]
    assert len({body["dedup_key"] for _, body in pages.got}) == 1
    assert ["training_latency_high" in body["text"] for _, body in slack.got] == [True, True]
    assert not mail.got  # this alert is not one for mail
    said = worker.stderr_path.read_text()
    assert "secret" not in said + repr(found)
    assert "127.0.0.1 answers 503" in repr(found)


def own_log_writer(own_log, ring):
    from streams.metrics import Metrics
    from streams.writer import LogWriter

    return LogWriter(own_log.address, ring, producer="trainer", metrics=Metrics())


def notified(found):
    return [event.alert_notified for event in found if body_name(event) == "alert_notified"]


@pytest.mark.asyncio
async def test_a_test_reaches_a_mailbox_and_what_is_not_configured_is_said(mail, monkeypatch):
    monkeypatch.setenv("ESPER_ALERT_SMTP_URL", f"smtp://127.0.0.1:{mail.port}")
    monkeypatch.setenv("ESPER_ALERT_EMAIL_TO", "ada@example.org, bob@example.org")

    await send_test(Settings.load(), "email")

    (envelope,) = mail.got
    assert envelope.rcpt_tos == ["ada@example.org", "bob@example.org"]
    assert b"nothing is wrong" in envelope.content
    with pytest.raises(InvalidInput, match="slack is not configured: set ESPER_ALERT_SLACK_URL"):
        await send_test(Settings.load(), "slack")
    monkeypatch.setenv("ESPER_ALERT_SMTP_URL", "smtp://127.0.0.1:9")
    with pytest.raises(Refused, match=r"127\.0\.0\.1:9"):
        await send_test(Settings.load(), "email")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SLACK_URL", "hooks.slack.com/x", "ESPER_ALERT_SLACK_URL is no address of the web"),
        ("WEBHOOK_URL", "ftp://x/secret", "ESPER_ALERT_WEBHOOK_URL is no address of the web"),
        ("SMTP_URL", "smtp://host:99999", "ESPER_ALERT_SMTP_URL is no smtp://"),
    ],
)
def test_an_address_that_is_none_is_said_at_the_start_without_itself(monkeypatch, variable, value, said):
    monkeypatch.setenv(f"ESPER_ALERT_{variable}", value)
    monkeypatch.setenv("ESPER_ALERT_EMAIL_TO", "a@b.c")
    monkeypatch.setenv("ESPER_ALERT_SMTP_URL", value if variable == "SMTP_URL" else "smtp://host")

    with pytest.raises(InvalidInput, match=said) as raised:
        channels_of(Settings.load())
    assert value not in str(raised.value)


def test_half_a_mailbox_is_none(monkeypatch):
    monkeypatch.setenv("ESPER_ALERT_EMAIL_TO", "a@b.c")

    with pytest.raises(InvalidInput, match="both ESPER_ALERT_SMTP_URL and ESPER_ALERT_EMAIL_TO"):
        Settings.load()
