"""Consumer groups: their members and states, which generation it is, and who has which partitions.

The states and answers are Kafka's (classic protocol). There is no waiting time before a first rebalance, and a static
member (KIP-345) is treated as an ordinary one.
"""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kio.schema.errors import ErrorCode

from streams.broker.protocol import Refused

MAX_MEMBERS: Final = 1_000
MAX_GROUPS: Final = 1_000
"""With members, at one time."""
MAX_SUBSCRIPTION: Final = 256 * 1024
"""Bytes that a member says of itself: the leader is sent those of all."""
MIN_SESSION_S: Final = 0.1
MAX_SESSION_S: Final = 1_800.0


class State(enum.Enum):
    """As DescribeGroups and ListGroups name them."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a member says of itself; `protocols` maps an assignor's name to the member's subscription."""

    member_id: str
    client_id: str
    host: str
    session_s: float
    rebalance_s: float
    protocol_type: str
    protocols: Mapping[str, bytes]
    id_required: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join; only the leader is told the members' subscriptions."""

    generation: int
    protocol: str
    leader: str
    member_id: str
    members: Mapping[str, bytes]


@dataclass(slots=True)
class Member:
    """One member. `joining` and `syncing` are the requests that it waits on."""

    id: str
    says: JoinRequest
    assignment: bytes = b""
    joining: asyncio.Future[Joined] | None = None
    syncing: asyncio.Future[bytes] | None = None
    expiry: asyncio.TimerHandle | None = None
    alive_until: float = 0.0


class MemberIdRequired(Refused):
    """The member must join again with the id that it is given here (KIP-394)."""

    def __init__(self, member_id: str) -> None:
        super().__init__(ErrorCode.member_id_required, "join again with this id")
        self.member_id = member_id


@dataclass(slots=True)
class Group:
    """One group; every method runs on the broker's event loop.

    `save` remembers the generation, so that none comes twice, not even after a restart.
    """

    id: str
    generation: int
    save: Callable[[str, int], None]
    state: State = State.EMPTY
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    _invited: set[str] = field(default_factory=set)
    _patience: asyncio.TimerHandle | None = None

    async def join(self, request: JoinRequest) -> Joined:
        """Waits until the rebalance that this join begins, or takes part in, is complete.

        Raises:
            Refused: the member is unknown, or does not fit the group.
        """
        member_id = self._admit(request)
        member = self.members.get(member_id)
        if member is not None and self._has_joined_already(member, request):
            return self._joined(member)
        if member is None:
            member = self.members[member_id] = Member(member_id, request)
        member.says = request
        if member.joining is not None and not member.joining.done():
            member.joining.set_exception(Refused(ErrorCode.unknown_member_id, "joined again meanwhile"))
        future: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        member.joining = future
        self._rebalance()
        try:
            return await future
        except asyncio.CancelledError:  # the client went away: it has one session's time to come back
            if member.joining is future:
                member.joining = None
                self._keep_alive(member)
            raise

    def _admit(self, request: JoinRequest) -> str:
        if not MIN_SESSION_S <= request.session_s <= MAX_SESSION_S:
            raise Refused(ErrorCode.invalid_session_timeout, f"session timeout {request.session_s} s")
        if not request.protocols or (self.members and not self._fits(request)):
            raise Refused(ErrorCode.inconsistent_group_protocol, f"{self.id}: no assignor in common")
        if sum(len(says) for says in request.protocols.values()) > MAX_SUBSCRIPTION:
            raise Refused(ErrorCode.policy_violation, f"{self.id}: more than {MAX_SUBSCRIPTION} bytes of a member")
        if request.member_id == "":
            if len(self.members) + len(self._invited) >= MAX_MEMBERS:
                raise Refused(ErrorCode.group_max_size_reached, f"{self.id} has {MAX_MEMBERS} members")
            return self._new_id(request)
        if request.member_id in self._invited:
            self._invited.discard(request.member_id)
        elif request.member_id not in self.members:
            raise Refused(ErrorCode.unknown_member_id, f"{self.id} does not know {request.member_id}")
        return request.member_id

    def _new_id(self, request: JoinRequest) -> str:
        member_id = f"{request.client_id}-{uuid.uuid4()}"
        if request.id_required:
            self._invited.add(member_id)
            asyncio.get_running_loop().call_later(request.session_s, self._invited.discard, member_id)
            raise MemberIdRequired(member_id)
        return member_id

    def _fits(self, request: JoinRequest) -> bool:
        others = [m.says.protocols for m in self.members.values() if m.id != request.member_id]
        common = [name for name in request.protocols if all(name in protocols for protocols in others)]
        return request.protocol_type == self.protocol_type and bool(common)

    def _has_joined_already(self, member: Member, request: JoinRequest) -> bool:
        """A join sent again, by a member that brings nothing new; the leader's always begins a rebalance."""
        if self.state is State.COMPLETING:
            return member.says.protocols == request.protocols
        return self.state is State.STABLE and member.id != self.leader and member.says.protocols == request.protocols

    def _rebalance(self) -> None:
        if self.state is not State.PREPARING:
            self.state = State.PREPARING
            for member in self.members.values():
                self._fail_sync(member)
            patience_s = max(member.says.rebalance_s for member in self.members.values())
            self._patience = asyncio.get_running_loop().call_later(patience_s, self._complete)
        self._complete_if_all_joined()

    def _complete_if_all_joined(self) -> None:
        if self.state is State.PREPARING and all(member.joining is not None for member in self.members.values()):
            self._complete()

    def _complete(self) -> None:
        """Begins a generation with those that have joined; the others are out."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for member in [m for m in self.members.values() if m.joining is None]:
            self._forget(member)
        self.generation += 1
        self.save(self.id, self.generation)
        if not self.members:
            self.state, self.protocol, self.leader = State.EMPTY, "", ""
            return
        self.state = State.COMPLETING
        first = next(iter(self.members.values()))
        self.protocol_type = first.says.protocol_type
        self.protocol = self._vote()
        if self.leader not in self.members:
            self.leader = first.id
        for member in self.members.values():
            member.assignment = b""
            if member.joining is not None and not member.joining.done():
                member.joining.set_result(self._joined(member))
            member.joining = None
            self._keep_alive(member)

    def _vote(self) -> str:
        """The assignor that most members put first, of those that all have."""
        offers = [member.says.protocols for member in self.members.values()]
        common = {name for name in offers[0] if all(name in offer for offer in offers)}
        votes = Counter(next(name for name in offer if name in common) for offer in offers)
        return votes.most_common(1)[0][0]

    def _joined(self, member: Member) -> Joined:
        is_leader = member.id == self.leader
        told = {m.id: m.says.protocols[self.protocol] for m in self.members.values()} if is_leader else {}
        return Joined(self.generation, self.protocol, self.leader, member.id, told)

    async def sync(self, member_id: str, generation: int, assignments: Mapping[str, bytes]) -> bytes:
        """The member's assignment; the leader brings everybody's.

        Raises:
            Refused: not a member of this generation, or the next rebalance has begun.
        """
        member = self.member(member_id, generation)
        if self.state is State.PREPARING:
            raise Refused(ErrorCode.rebalance_in_progress, f"{self.id} rebalances")
        self._keep_alive(member)
        if self.state is State.STABLE:
            return member.assignment
        if member_id == self.leader:
            self._assign(assignments)
            return member.assignment
        self._fail_sync(member)
        member.syncing = asyncio.get_running_loop().create_future()
        return await member.syncing

    def _assign(self, assignments: Mapping[str, bytes]) -> None:
        self.state = State.STABLE
        for member in self.members.values():
            member.assignment = assignments.get(member.id, b"")
            if member.syncing is not None and not member.syncing.done():
                member.syncing.set_result(member.assignment)
            member.syncing = None

    def _fail_sync(self, member: Member) -> None:
        if member.syncing is not None and not member.syncing.done():
            member.syncing.set_exception(Refused(ErrorCode.rebalance_in_progress, f"{self.id} rebalances"))
        member.syncing = None

    def heartbeat(self, member_id: str, generation: int) -> None:
        """Keeps a member in.

        Raises:
            Refused: it is none, or must join again.
        """
        self._keep_alive(self.member(member_id, generation))
        if self.state is State.PREPARING:
            raise Refused(ErrorCode.rebalance_in_progress, f"{self.id} rebalances")

    def leave(self, member_id: str) -> None:
        """Takes a member out and begins a rebalance of the others.

        Raises:
            Refused: it is none.
        """
        if member_id in self._invited:
            self._invited.discard(member_id)
            return
        member = self.members.get(member_id)
        if member is None:
            raise Refused(ErrorCode.unknown_member_id, f"{self.id} does not know {member_id}")
        self._remove(member)

    def _remove(self, member: Member) -> None:
        self._forget(member)
        if self.state is State.PREPARING or not self.members:
            self.state = State.PREPARING
            self._complete_if_all_joined()
        else:
            self._rebalance()

    def _forget(self, member: Member) -> None:
        self.members.pop(member.id, None)
        if member.expiry is not None:
            member.expiry.cancel()
        for waiting in (member.joining, member.syncing):
            if waiting is not None and not waiting.done():
                waiting.set_exception(Refused(ErrorCode.unknown_member_id, f"{member.id} was taken out"))

    def _keep_alive(self, member: Member) -> None:
        loop = asyncio.get_running_loop()
        member.alive_until = loop.time() + member.says.session_s
        if member.expiry is None:
            member.expiry = loop.call_at(member.alive_until, self._expire, member)

    def _expire(self, member: Member) -> None:
        """The member's timer: armed once, and again for what heartbeats have added since."""
        loop = asyncio.get_running_loop()
        member.expiry = None
        waits = member.joining is not None or member.syncing is not None
        if member.id not in self.members:
            return
        if waits or member.alive_until > loop.time():
            at = max(member.alive_until, loop.time() + 0.1) if waits else member.alive_until
            member.expiry = loop.call_at(at, self._expire, member)
        else:
            self._remove(member)

    def member(self, member_id: str, generation: int) -> Member:
        """The member of this generation.

        Raises:
            Refused: there is none.
        """
        member = self.members.get(member_id)
        if member is None:
            raise Refused(ErrorCode.unknown_member_id, f"{self.id} does not know {member_id}: join again")
        if generation != self.generation:
            raise Refused(ErrorCode.illegal_generation, f"{self.id} is at generation {self.generation}: join again")
        return member

    def check_commit(self, member_id: str, generation: int) -> None:
        """Whether offsets may be committed: by a member of this generation, or by anyone while there are no members.

        Raises:
            Refused: they may not.
        """
        if generation < 0 and not self.members:
            return
        member = self.member(member_id, generation)
        if self.state is State.COMPLETING:
            raise Refused(ErrorCode.rebalance_in_progress, f"{self.id} rebalances")
        self._keep_alive(member)
