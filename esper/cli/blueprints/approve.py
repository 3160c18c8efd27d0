"""`esper blueprints approve`: an approval, or its withdrawal, as a signed event on the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from esper.cli.archived import wait_for_archive
from esper.cli.blueprints.conversation import Conversation, of_a_person
from esper.cli.folder import check_writable
from esper.cli.output import say, say_json
from esper.errors import InvalidInput
from esper.karn.approval import Approval, approve
from esper.karn.blueprint import Blueprint
from esper.karn.table import find_by_name
from esper.leyline.ids import text
from esper.leyline.signing import KeyRing
from esper.weatherlight import client
from projections.manifest import Place
from streams.keys import load_key_ring
from streams.settings import Settings

ARCHIVE_S: Final = 30.0


def approve_command(data_dir: Path, word: str, *, by: str, why: str, withdraw: bool, as_json: bool) -> None:
    """Record who lets a blueprint be used and why; with `withdraw`, who takes that back.

    Raises InvalidInput for a blueprint that does not exist or needs no approval, for one that is approved already (or,
    with `withdraw`, is not), and where by whom or why is missing.
    """
    blueprint = find_by_name(word)
    body = approve(blueprint, by=by.strip(), why=why.strip(), approved=not withdraw)
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    with client.join(data_dir, client="esper blueprints approve", brokers=settings.brokers) as lease:
        lease.wait_ready()
        event_id, ends = asyncio.run(_record(lease.brokers, ring, blueprint, body))
        wait_for_archive(data_dir, ends, ARCHIVE_S, lambda: None)
    named = f"{blueprint.blueprint_id} {blueprint.name}"
    if as_json:
        said = {"blueprint_id": blueprint.blueprint_id, "approved": body.approved, "by": body.by, "why": body.why}
        say_json({**said, "event_id": text(event_id)})
    else:
        say(f"{named} is {'approved' if body.approved else 'no longer approved'} by {body.by}: {body.why}")


async def _record(
    brokers: str, ring: KeyRing, blueprint: Blueprint, body: BlueprintApproved
) -> tuple[bytes, dict[Place, int]]:
    """Publish it if it changes anything; the event's id, and where the topic ends after it."""
    async with Conversation(brokers, ring) as conversation:
        _check(blueprint, conversation.approvals.get(blueprint.blueprint_id), approved=body.approved)
        event = of_a_person(body)
        await conversation.say([event])
        return event.event_id, await conversation.ends()


def _check(blueprint: Blueprint, before: Approval | None, *, approved: bool) -> None:
    named = f"{blueprint.blueprint_id} {blueprint.name}"
    if approved and before is not None:
        raise InvalidInput(
            f"{named} is approved already, by {before.by}: {before.why}; withdraw that first to change it"
        )
    if not approved and before is None:
        raise InvalidInput(f"{named} is not approved, so there is nothing to withdraw")
