"""Consumer groups: generations, rebalances, and who may commit."""

from __future__ import annotations

import asyncio

import pytest
from kio.schema.errors import ErrorCode

from streams.broker.core import Core
from streams.broker.groups import MAX_SUBSCRIPTION, Group, JoinRequest, MemberIdRequired, State
from streams.broker.protocol import Refused
from streams.broker.store import Store

pytestmark = pytest.mark.asyncio


def wants(member_id="", *, name="m", session_s=5.0, rebalance_s=5.0, protocols=("range",), id_required=False):
    """A join request; the subscription is the member's name."""
    says = {protocol: name.encode() for protocol in protocols}
    return JoinRequest(member_id, name, "127.0.0.1", session_s, rebalance_s, "consumer", says, id_required)


class Saved(dict):
    """Where generations are remembered."""

    def __call__(self, group, generation):
        self[group] = generation


@pytest.fixture
def group():
    return Group("g", 0, Saved())


async def settle():
    """Lets every task that can run, run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def stable(group, *names, **options):
    """A stable group with these members; their joins in order of names."""
    first = await group.join(wants(name=names[0], **options))
    await group.sync(first.member_id, first.generation, {first.member_id: b"all"})
    joined = [first]
    for name in names[1:]:
        task = asyncio.create_task(group.join(wants(name=name, **options)))
        await settle()
        again = [
            asyncio.create_task(group.join(wants(j.member_id, name=n, **options)))
            for j, n in zip(joined, names, strict=False)
        ]
        joined = [*await asyncio.gather(*again), await task]
        shares = {j.member_id: f"part of {j.member_id}".encode() for j in joined}
        await group.sync(joined[0].member_id, joined[0].generation, shares)
    return joined


def refusal(code):
    """Expects a refusal with this code."""
    return pytest.raises(Refused, check=lambda refused: refused.code is code)


async def test_the_first_member_leads_at_once_and_gets_its_assignment(group):
    joined = await group.join(wants())
    assert (joined.generation, joined.leader, joined.protocol) == (1, joined.member_id, "range")
    assert joined.members == {joined.member_id: b"m"}
    assert await group.sync(joined.member_id, 1, {joined.member_id: b"mine"}) == b"mine"
    assert group.state is State.STABLE
    assert group.save == {"g": 1}


async def test_a_second_member_waits_for_the_first_and_each_gets_its_share(group):
    one, two = await stable(group, "one", "two")
    assert (one.generation, two.generation) == (2, 2)
    assert set(one.members) == {one.member_id, two.member_id}
    assert two.members == {}
    assert await group.sync(two.member_id, 2, {}) == f"part of {two.member_id}".encode()


async def test_a_follower_waits_for_the_leaders_assignment(group):
    one, two = await stable(group, "one", "two")
    tasks = [asyncio.create_task(group.join(wants(j.member_id, name=n))) for j, n in ((one, "one"), (two, "two"))]
    one, two = await asyncio.gather(*tasks)
    follower = asyncio.create_task(group.sync(two.member_id, two.generation, {}))
    await settle()
    assert not follower.done()
    await group.sync(one.member_id, one.generation, {two.member_id: b"its"})
    assert await follower == b"its"


async def test_members_learn_of_a_rebalance_by_heartbeat_and_lose_old_generations(group):
    one, two = await stable(group, "one", "two")
    group.heartbeat(one.member_id, 2)
    late = asyncio.create_task(group.join(wants(name="three")))
    await settle()
    with refusal(ErrorCode.rebalance_in_progress):
        group.heartbeat(one.member_id, 2)
    with refusal(ErrorCode.illegal_generation):
        group.heartbeat(two.member_id, 1)
    with refusal(ErrorCode.unknown_member_id):
        group.heartbeat("nobody", 2)
    late.cancel()
    await settle()


async def test_leaving_starts_a_rebalance_and_the_last_empties_the_group(group):
    one, two = await stable(group, "one", "two")
    group.leave(one.member_id)
    with refusal(ErrorCode.rebalance_in_progress):
        group.heartbeat(two.member_id, 2)
    again = await group.join(wants(two.member_id, name="two"))
    assert (again.leader, again.generation) == (two.member_id, 3)
    group.leave(two.member_id)
    assert (group.state, group.members) == (State.EMPTY, {})
    with refusal(ErrorCode.unknown_member_id):
        group.leave(two.member_id)


@pytest.mark.requirement("R-OONA-19")
async def test_a_silent_member_is_taken_out(group):
    one, two = await stable(group, "one", "two", session_s=0.15)
    for _ in range(4):
        await asyncio.sleep(0.06)
        if group.state is State.STABLE:
            group.heartbeat(one.member_id, 2)
    assert two.member_id not in group.members
    again = await group.join(wants(one.member_id, name="one", session_s=0.15))
    assert set(again.members) == {one.member_id}


async def test_who_does_not_join_again_in_time_is_left_out(group):
    one, two = await stable(group, "one", "two", rebalance_s=0.1)
    late = asyncio.create_task(group.join(wants(name="three", rebalance_s=0.1)))
    await settle()
    again = await group.join(wants(two.member_id, name="two", rebalance_s=0.1))
    assert (again.leader, set(again.members)) == (two.member_id, {two.member_id, (await late).member_id})
    with refusal(ErrorCode.unknown_member_id):
        group.heartbeat(one.member_id, again.generation)


async def test_a_client_that_disconnects_while_joining_does_not_hold_the_others_for_ever(group):
    """Its session ends, not its (five minute) rebalance timeout."""
    (one,) = await stable(group, "one", rebalance_s=300.0)
    gone = asyncio.create_task(group.join(wants(name="two", session_s=0.1, rebalance_s=300.0)))
    await settle()
    gone.cancel()
    waiting = asyncio.create_task(group.join(wants(one.member_id, name="one", rebalance_s=300.0)))
    again = await asyncio.wait_for(waiting, 2.0)
    assert set(again.members) == {one.member_id}


async def test_a_new_member_is_told_its_id_first(group):
    with pytest.raises(MemberIdRequired) as told:
        await group.join(wants(id_required=True))
    assert group.members == {}
    joined = await group.join(wants(told.value.member_id, id_required=True))
    assert joined.member_id == told.value.member_id


@pytest.mark.parametrize(
    ("asks", "code"),
    [
        (wants("nobody"), ErrorCode.unknown_member_id),
        (wants(session_s=0.01), ErrorCode.invalid_session_timeout),
        (wants(protocols=("other",)), ErrorCode.inconsistent_group_protocol),
        (wants(protocols=()), ErrorCode.inconsistent_group_protocol),
    ],
)
async def test_a_join_that_does_not_fit_changes_nothing(group, asks, code):
    (one,) = await stable(group, "one")
    with refusal(code):
        await group.join(asks)
    group.heartbeat(one.member_id, one.generation)


async def test_the_assignor_that_all_have_and_most_prefer_is_chosen(group):
    one = await group.join(wants(name="one", protocols=("a", "b", "c")))
    await group.sync(one.member_id, 1, {})
    others = [asyncio.create_task(group.join(wants(name="x", protocols=("b", "c")))) for _ in range(2)]
    await settle()
    again = await group.join(wants(one.member_id, name="one", protocols=("a", "c", "b")))
    assert again.protocol == "b"
    await asyncio.gather(*others)


async def test_a_join_sent_twice_by_a_follower_changes_nothing(group):
    _, two = await stable(group, "one", "two")
    again = await group.join(wants(two.member_id, name="two"))
    assert (again.generation, group.state) == (2, State.STABLE)


async def test_who_may_commit(group):
    group.check_commit("", -1)
    one, two = await stable(group, "one", "two")
    group.check_commit(two.member_id, 2)
    with refusal(ErrorCode.unknown_member_id):
        group.check_commit("", -1)
    with refusal(ErrorCode.illegal_generation):
        group.check_commit(two.member_id, 1)
    group.leave(one.member_id)
    group.leave(two.member_id)
    group.check_commit("", -1)


async def test_a_generation_never_comes_twice_even_after_a_restart():
    group = Group("g", 41, Saved())
    assert (await group.join(wants())).generation == 42


async def test_what_a_member_says_of_itself_is_bounded(group):
    """The leader is sent the words of all."""
    with pytest.raises(Refused, match="more than 262144 bytes of a member") as refused:
        await group.join(wants(name="x" * (MAX_SUBSCRIPTION + 1)))

    assert refused.value.code is ErrorCode.policy_violation
    assert group.members == {}


async def test_groups_are_bounded_and_those_that_all_have_left_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr("streams.broker.core.MAX_GROUPS", 2)
    store = Store(tmp_path / "log")
    core = Core(store, lambda _partition: None)
    joined = [await core.group(name, keep=True).join(wants()) for name in ("a", "b")]
    with pytest.raises(Refused, match="2 groups have members: no more can be joined"):
        core.group("c", keep=True)
    core.groups["a"].leave(joined[0].member_id)
    await core.group("c", keep=True).join(wants())
    found, again = set(core.groups), core.group("a").generation
    store.close()

    assert found == {"b", "c"}
    assert again == joined[0].generation + 1, "its generation is remembered"
