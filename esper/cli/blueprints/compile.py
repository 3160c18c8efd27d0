"""`esper blueprints approve` and `compile`: what is asked of the log, and waited for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from contracts.leyline.v1.event_pb2 import BlueprintApproved, CompileRequested
from esper.cli import RUN_FAILED
from esper.cli.blueprints.catalogue import WAY_TO_APPROVAL, parse_shape, task_sites
from esper.cli.blueprints.conversation import Conversation
from esper.cli.blueprints.kernels import JobsScreen, Kernel, make_jobs_screen, say_kernels
from esper.cli.history import check_writable, wait_for_archive
from esper.cli.output import complain, say, say_json
from esper.errors import InvalidInput, LogUnavailable
from esper.karn.approval import Approval, Approvals, approve
from esper.karn.blueprint import Blueprint, SiteShape
from esper.karn.table import CATALOGUE, find_by_name
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.ids import text
from esper.leyline.signing import KeyRing
from esper.tezzeret import events
from esper.tezzeret.scan import refusal, requests
from esper.weatherlight import client
from projections.manifest import Place as LogPlace
from streams.keys import load_key_ring
from streams.settings import Settings

PRODUCER: Final = "person"


ARCHIVE_S: Final = 30.0


def of_a_person(body: Message) -> Event:
    """An event that a person caused at the command line, now."""
    now_ns = time.time_ns()
    event_id = ids.uuid7(now_ns, os.urandom(10))
    return new_event(body, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)


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
        wait_for_archive(data_dir, ends, ARCHIVE_S, lambda _to_go: None, lease.unwritable)
    named = blueprint.full_name
    if as_json:
        said = {"blueprint_id": blueprint.blueprint_id, "approved": body.approved, "by": body.by, "why": body.why}
        say_json({**said, "event_id": text(event_id)})
    else:
        say(f"{named} is {'approved' if body.approved else 'no longer approved'} by {body.by}: {body.why}")


async def _record(
    brokers: str, ring: KeyRing, blueprint: Blueprint, body: BlueprintApproved
) -> tuple[bytes, dict[LogPlace, int]]:
    """Publish it if it changes anything; the event's id, and where the topic ends after it."""
    async with Conversation(brokers, ring) as conversation:
        _check(blueprint, conversation.approvals.get(blueprint.blueprint_id), approved=body.approved)
        event = of_a_person(body)
        await conversation.say([event])
        return event.event_id, await conversation.ends()


def _check(blueprint: Blueprint, before: Approval | None, *, approved: bool) -> None:
    named = blueprint.full_name
    if approved and before is not None:
        raise InvalidInput(
            f"{named} is approved already, by {before.by}: {before.why}; withdraw that first to change it"
        )
    if not approved and before is None:
        raise InvalidInput(f"{named} is not approved, so there is nothing to withdraw")


TICK_S: Final = 0.1


FORGE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """What a person asked for: the blueprints that `words` name, else a tier; for `shapes`, else the task's sites."""

    data_dir: Path
    words: tuple[str, ...]
    tier: str
    shapes: tuple[str, ...]
    task: str
    pipeline: str
    as_json: bool

    def blueprints(self) -> list[Blueprint]:
        """Those that are meant; raises InvalidInput for one that does not exist or is never compiled."""
        named = list(dict.fromkeys(find_by_name(word).blueprint_id for word in self.words))
        of_tier = [
            name for name, each in CATALOGUE.items() if each.tier.replace("_", "-") == self.tier and not each.widens
        ]
        found = [CATALOGUE[name] for name in named or of_tier]
        for each in found:
            if never := refusal(each, approved=True):
                raise InvalidInput(never)
        return found

    def sites(self) -> list[SiteShape]:
        """The site shapes that are meant, each once; raises InvalidInput for a shape or a task that there is not."""
        if self.shapes:
            return list(dict.fromkeys(parse_shape(shape) for shape in self.shapes))
        return task_sites(self.task)


def compile_command(request: CompileRequest) -> int:
    """Have the kernels made; RUN_FAILED where one had to be given up. Raises InvalidInput and LogUnavailable."""
    blueprints, sites = request.blueprints(), request.sites()
    _check_served(request, blueprints, sites)
    settings = Settings.load(data=request.data_dir)
    check_writable(request.data_dir)
    ring = load_key_ring(settings)
    with (
        make_jobs_screen(quiet=request.as_json) as screen,
        client.join(request.data_dir, client="esper blueprints compile", brokers=settings.brokers) as lease,
    ):
        screen.note("starting the log and the forge")
        lease.wait_ready()
        asked = Asked(request, ring, lease, screen)
        try:
            ends = asyncio.run(asked.carry_out(blueprints, sites))
        except KeyboardInterrupt:
            left = sum(not kernel.settled for kernel in asked.kernels)
            complain(
                f"{left} of {len(asked.kernels)} kernels are not made yet; the forge of the next run goes on with them"
            )
            raise
        screen.note("waiting for the archive to hold everything")
        wait_for_archive(
            request.data_dir,
            ends,
            ARCHIVE_S,
            lambda _to_go: asked.look_after_processes(),
            lambda: lease.status.unwritable,
        )
    say_kernels(asked.kernels, as_json=request.as_json)
    return RUN_FAILED if any(kernel.outcome == "parked" for kernel in asked.kernels) else 0


def _check_served(request: CompileRequest, blueprints: Sequence[Blueprint], sites: Sequence[SiteShape]) -> None:
    """A blueprint that was named must serve one of the shapes; one of a whole tier is left out."""
    kinds = {site.kind for site in sites}
    for each in blueprints if request.words else ():
        if not kinds & set(each.kinds):
            raise InvalidInput(
                f"{each.full_name} serves {', '.join(each.kinds)} sites, and asked for are "
                f"{', '.join(sorted(kinds))} only"
            )


def permitted(blueprints: Sequence[Blueprint], approvals: Approvals, *, named: bool) -> list[Blueprint]:
    """Those that may be compiled now. Raises InvalidInput where none may, or one that was named may not."""
    found = [each for each in blueprints if not refusal(each, approved=each.blueprint_id in approvals)]
    left_out = [each for each in blueprints if each not in found]
    if left_out and (named or not found):
        first = left_out[0].blueprint_id
        way = WAY_TO_APPROVAL.format(first)
        raise InvalidInput(f"{left_out[0].full_name} is {left_out[0].tier} and not approved; approve it first: {way}")
    for each in left_out:
        complain(f"{each.full_name} is left out: not approved")
    return found


class Asked:
    """One command between its lease and its table."""

    def __init__(self, request: CompileRequest, ring: KeyRing, lease: client.Lease, screen: JobsScreen) -> None:
        self.kernels: list[Kernel] = []
        self._request = request
        self._ring = ring
        self._lease = lease
        self._screen = screen

    async def carry_out(self, blueprints: Sequence[Blueprint], sites: Sequence[SiteShape]) -> dict[LogPlace, int]:
        """Ask for what is not stored yet and wait for all of it; where the topic ends then."""
        async with Conversation(self._lease.brokers, self._ring) as talk:
            approved = permitted(blueprints, talk.approvals, named=bool(self._request.words))
            tiers = {each.tier for each in approved}
            bodies = requests(
                sites, tiers=tiers, approved=talk.approvals, pipeline=self._request.pipeline, catalogue=approved
            )
            self.kernels = [Kernel.of(body, talk) for body in bodies]
            await self._ask(talk, bodies)
            await self._wait(talk)
            return await talk.ends()

    async def _ask(self, talk: Conversation, bodies: Sequence[CompileRequested]) -> None:
        """Request what is not stored; what was given up before is asked for anew."""
        now_ns = time.time_ns()
        said = [
            events.requested(body, now_ns, producer=PRODUCER, attempts_made=kernel.attempts_made)
            for body, kernel in zip(bodies, self.kernels, strict=True)
            if kernel.outcome != "skipped"
        ]
        skipped = len(bodies) - len(said)
        self._screen.begin(self.kernels)
        self._screen.note(f"{len(said)} kernels to make" + (f", {skipped} stored already" if skipped else ""))
        await talk.say(said)

    async def _wait(self, talk: Conversation) -> None:
        deadline = time.monotonic() + FORGE_S
        while any(not kernel.settled for kernel in self.kernels):
            talk.check()
            for kernel in self.kernels:
                kernel.follow(talk)
            self._screen.show(self.kernels)
            self.look_after_processes()
            if self._forge_ready():
                deadline = time.monotonic() + FORGE_S
            elif time.monotonic() > deadline:
                log = self._request.data_dir / "run" / "forge.log"
                raise LogUnavailable(f"the forge is not ready within {FORGE_S:.0f} s; see {log}")
            await asyncio.sleep(TICK_S)

    def look_after_processes(self) -> None:
        """Take in what the supervisor says; where it is gone, start another one and go on."""
        try:
            self._lease.poll()
        except client.SupervisorGone:
            self._screen.note("the supervisor is gone; starting another one")
            self._lease.renew()
        if self._lease.status.state == "failed":
            self._lease.wait_ready()  # says why

    def _forge_ready(self) -> bool:
        """Whether the forge works."""
        return any(each.name == "forge" and each.state == "ready" for each in self._lease.status.services)
