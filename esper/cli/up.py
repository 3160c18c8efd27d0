"""`esper up` and `esper broker`: hold a lease on the data folder's processes until Ctrl-C, and show how they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from esper.cli.folder import check_writable
from esper.cli.output import GREEN, RED, YELLOW, say, say_json, styled, table
from esper.weatherlight import client
from esper.weatherlight.endpoint import Status
from streams.settings import Settings

POLL_S: Final = 60.0
_STYLES: Final = {"ready": GREEN, "starting": YELLOW, "waiting": RED, "stopped": RED}


def up_command(data_dir: Path, port: int, *, broker_only: bool, as_json: bool) -> None:
    """Start the processes (or the broker alone), say where they are, and keep them until interrupted."""
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    if broker_only and settings.brokers is not None:
        say(f"ESPER_BROKERS is set to {settings.brokers}: the embedded broker is started beside it, for this folder")
    outside = None if broker_only else settings.brokers
    if not broker_only:
        from streams.keys import load_key_ring  # noqa: PLC0415 - a missing key is said before anything starts

        load_key_ring(settings)
    name = "esper broker" if broker_only else "esper up"
    with client.join(data_dir, client=name, brokers=outside, port=port, broker_only=broker_only) as lease:
        lease.wait_ready()
        _show(lease.status, as_json=as_json)
        if not as_json:
            say(f"\nConnect with ESPER_DATA={data_dir} (or any Kafka client at {lease.brokers}). Ctrl-C stops.")
        _watch(lease, as_json=as_json)


def _show(status: Status, *, as_json: bool) -> None:
    if as_json:
        say_json(status.to_json())
        return
    say(f"data   {status.data_dir}")
    say(f"log    {status.brokers} ({'embedded broker' if status.embedded else 'ESPER_BROKERS'})")
    rows = [
        (each.name, styled(each.state, _STYLES[each.state]), each.pid, each.restarts, each.health_port)
        for each in status.services
    ]
    say("\n" + table(("process", "state", "pid", "restarts", "health port"), rows))


def _watch(lease: client.Lease, *, as_json: bool) -> None:
    """Print what changes, until the supervisor ends or Ctrl-C comes."""
    before = lease.status
    while True:
        try:
            lease.poll(POLL_S)
        except client.SupervisorGone:
            say_json({"state": "gone"}) if as_json else say("the processes were stopped")
            return
        if lease.status != before:
            if as_json:
                say_json(lease.status.to_json())
            else:
                _say_changes(before, lease.status)
            before = lease.status


def _say_changes(before: Status, now: Status) -> None:
    known = {service.name: (service.state, service.restarts) for service in before.services}
    for service in now.services:
        if (service.state, service.restarts) != known.get(service.name):
            why = f" after {service.last_exit}" if service.last_exit else ""
            say(f"{time.strftime('%H:%M:%S')}  {service.name} {service.state}, restarts {service.restarts}{why}")
    for joined in sorted(set(now.clients) - set(before.clients)):
        say(f"{time.strftime('%H:%M:%S')}  {joined} joined")
    for left in sorted(set(before.clients) - set(now.clients)):
        say(f"{time.strftime('%H:%M:%S')}  {left} left")
