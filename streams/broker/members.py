"""What a consumer group is made of: its state, what its members say of themselves, and what they are answered."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from kio.schema.errors import ErrorCode

from streams.broker.errors import Refused


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
