"""Consumer groups on the wire: join, sync, heartbeat, leave, commit offsets, and the admin's view of them."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from kio.schema.errors import ErrorCode

from contracts.topics import ARCHIVER_GROUP
from streams.broker.core import Caller, Core
from streams.broker.groups import Group, JoinRequest, MemberIdRequired, State
from streams.broker.protocol import Fields, Refused
from streams.broker.registry import Committed

_ID_FIRST_SINCE: Final = 4
"""From this version of JoinGroup on, a new member is told its id first and joins with it (KIP-394)."""
_MANY_LEAVE_SINCE: Final = 3
MAX_METADATA: Final = 4096


async def join(core: Core, caller: Caller, request: Any) -> Fields:
    """Waits for the rebalance and answers the member's place in the new generation."""
    session_s = request.session_timeout.total_seconds()
    asks = JoinRequest(
        member_id=request.member_id,
        client_id=caller.client_id or "member",
        host=caller.host,
        session_s=session_s,
        rebalance_s=request.rebalance_timeout.total_seconds() if caller.version else session_s,
        protocol_type=request.protocol_type,
        protocols={protocol.name: protocol.metadata for protocol in request.protocols},
        id_required=caller.version >= _ID_FIRST_SINCE,
    )
    try:
        joined = await core.group(request.group_id, keep=True).join(asks)
    except Refused as refused:
        member_id = refused.member_id if isinstance(refused, MemberIdRequired) else request.member_id
        none = {"generation_id": -1, "protocol_name": "", "leader": "", "members": ()}
        return {"error_code": refused.code, "member_id": member_id} | none
    return {
        "error_code": ErrorCode.none,
        "generation_id": joined.generation,
        "protocol_name": joined.protocol,
        "leader": joined.leader,
        "member_id": joined.member_id,
        "members": [{"member_id": name, "metadata": says} for name, says in joined.members.items()],
    }


async def sync(core: Core, _caller: Caller, request: Any) -> Fields:
    """Waits for the leader's assignment."""
    assignments = {each.member_id: each.assignment for each in request.assignments}
    try:
        assignment = await core.group(request.group_id).sync(request.member_id, request.generation_id, assignments)
    except Refused as refused:
        return {"error_code": refused.code, "assignment": b""}
    return {"error_code": ErrorCode.none, "assignment": assignment}


def heartbeat(core: Core, _caller: Caller, request: Any) -> Fields:
    """Keeps the member in, or tells it to join again."""
    try:
        core.group(request.group_id).heartbeat(request.member_id, request.generation_id)
    except Refused as refused:
        return {"error_code": refused.code}
    return {"error_code": ErrorCode.none}


def leave(core: Core, caller: Caller, request: Any) -> Fields:
    """Takes members out."""
    several = caller.version >= _MANY_LEAVE_SINCE
    leaving = [member.member_id for member in request.members] if several else [request.member_id]
    codes = [_leave(core, request.group_id, member_id) for member_id in leaving]
    if not several:
        return {"error_code": codes[0]}
    members = [
        {"member_id": member.member_id, "group_instance_id": member.group_instance_id, "error_code": code}
        for member, code in zip(request.members, codes, strict=True)
    ]
    return {"error_code": ErrorCode.none, "members": members}


def _leave(core: Core, group_id: str, member_id: str) -> ErrorCode:
    try:
        core.group(group_id).leave(member_id)
    except Refused as refused:
        return refused.code
    return ErrorCode.none


def list_groups(core: Core, _caller: Caller, _request: Any) -> Fields:
    """All groups with members or positions."""
    known = core.store.registry.group_ids() | {g.id for g in core.groups.values() if g.members}
    groups = [{"group_id": group, "protocol_type": _protocol_type(core, group)} for group in sorted(known)]
    return {"error_code": ErrorCode.none, "groups": groups}


def _protocol_type(core: Core, group_id: str) -> str:
    group = core.groups.get(group_id)
    return group.protocol_type if group else ""


def describe(core: Core, _caller: Caller, request: Any) -> Fields:
    """Members and assignments of each group asked for; an unknown one is "Dead", as in Kafka."""
    known = core.store.registry.group_ids()
    return {"groups": [_described(core, group_id, known) for group_id in request.groups]}


def _described(core: Core, group_id: str, known: set[str]) -> Fields:
    group = core.groups.get(group_id)
    if group is None or not (group.members or group_id in known):
        state = State.EMPTY.value if group_id in known else "Dead"
        none = {"protocol_type": "", "protocol_data": "", "members": ()}
        return {"error_code": ErrorCode.none, "group_id": group_id, "group_state": state} | none
    return {
        "error_code": ErrorCode.none,
        "group_id": group_id,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type,
        "protocol_data": group.protocol,
        "members": _members(group),
    }


def _members(group: Group) -> list[Fields]:
    return [
        {
            "member_id": member.id,
            "client_id": member.says.client_id,
            "client_host": f"/{member.says.host}",
            "member_metadata": member.says.protocols.get(group.protocol, b""),
            "member_assignment": member.assignment,
        }
        for member in group.members.values()
    ]


def delete(core: Core, _caller: Caller, request: Any) -> Fields:
    """Forgets groups that have no members, with their positions."""
    return {"results": [{"group_id": group, "error_code": _delete(core, group)} for group in request.groups_names]}


def _delete(core: Core, group_id: str) -> ErrorCode:
    group = core.groups.get(group_id)
    if group is not None and group.members:
        return ErrorCode.non_empty_group
    if group_id not in core.store.registry.group_ids():
        return ErrorCode.group_id_not_found
    core.store.registry.drop_group(group_id)
    core.groups.pop(group_id, None)
    return ErrorCode.none


def commit(core: Core, _caller: Caller, request: Any) -> Fields:
    """Stores a group's positions, all that can be stored in one transaction."""
    refused = _refusal(core, request)
    accepted: dict[tuple[str, int], Committed] = {}
    codes = {
        (topic.name, p.partition_index): refused or _judge(core, request.group_id, topic.name, p, accepted)
        for topic in request.topics
        for p in topic.partitions
    }
    try:
        if accepted:
            core.store.registry.commit(request.group_id, accepted)
    except sqlite3.Error as error:
        core.complain(Refused(ErrorCode.kafka_storage_error, f"group {request.group_id}: offsets not stored: {error}"))
        codes |= dict.fromkeys(accepted, ErrorCode.kafka_storage_error)
    return {"topics": [_positions(topic, codes) for topic in request.topics]}


def _refusal(core: Core, request: Any) -> ErrorCode | None:
    try:
        core.group(request.group_id).check_commit(request.member_id, request.generation_id_or_member_epoch)
    except Refused as refused:
        return refused.code
    return None


def _judge(core: Core, group: str, topic: str, position: Any, accepted: dict[tuple[str, int], Committed]) -> ErrorCode:
    try:
        partition = core.store.partition(topic, position.partition_index)
    except Refused as refused:
        return refused.code
    if group == ARCHIVER_GROUP and position.committed_offset > partition.next_offset:
        return ErrorCode.offset_out_of_range  # a start takes what the archive has read for given
    if len(position.committed_metadata or "") > MAX_METADATA:
        return ErrorCode.offset_metadata_too_large
    if position.committed_offset < 0:
        return ErrorCode.invalid_commit_offset_size
    committed = Committed(position.committed_offset, position.committed_metadata)
    accepted[topic, position.partition_index] = committed
    return ErrorCode.none


def _positions(topic: Any, codes: dict[tuple[str, int], ErrorCode]) -> Fields:
    partitions = [
        {"partition_index": p.partition_index, "error_code": codes[topic.name, p.partition_index]}
        for p in topic.partitions
    ]
    return {"name": topic.name, "partitions": partitions}


def committed(core: Core, _caller: Caller, request: Any) -> Fields:
    """A group's positions: those asked for, or all; -1 where there is none."""
    found = core.store.registry.committed(request.group_id)
    if request.topics is None:
        asked: dict[str, list[int]] = {}
        for topic, partition in found:
            asked.setdefault(topic, []).append(partition)
    else:
        asked = {topic.name: list(topic.partition_indexes) for topic in request.topics}
    topics = [
        {"name": name, "partitions": [_position(found.get((name, number)), number) for number in numbers]}
        for name, numbers in asked.items()
    ]
    return {"topics": topics, "error_code": ErrorCode.none}


def _position(position: Committed | None, number: int) -> Fields:
    return {
        "partition_index": number,
        "committed_offset": position.next_offset if position else -1,
        "metadata": position.metadata if position else "",
        "error_code": ErrorCode.none,
    }
