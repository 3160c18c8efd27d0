"""Random streams of several ranks in one kept state: each rank goes on from its own, and no digest moves."""

from __future__ import annotations

import pytest
import torch

from esper.leyline.objects import ObjectStore
from esper.tolaria.encoded import own_streams
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.rank_streams import of_rank, streams_of, with_ranks
from esper.tolaria.run_state import verify
from esper.tolaria.state import (
    FlatState,
    Position,
    Snapshot,
    digest,
    digested,
    flatten,
    load_checkpoint,
    store_checkpoint,
    unflatten,
)

PLACE = Position("run", 0, 3, 1, 9)


def kept(seed: int) -> Snapshot:
    """What a rank keeps that draws from this seed."""
    state = flatten({"host": {"weight": torch.ones(2)}, "random": {"torch": torch.full((3,), seed)}})
    own = flatten({"own_streams": own_streams() | {"numpy": seed}})
    flat = FlatState(state.tensors | own.tensors, {**state.scalars, "progress": {"own_streams": own.scalars}})
    return Snapshot(flat, digest(digested(flat)).root, PLACE)


def test_each_rank_goes_on_from_its_own_streams(tmp_path) -> None:
    ranks = [kept(seed) for seed in (5, 6, 5)]
    whole = with_ranks(ranks[0], [streams_of(each.flat) for each in ranks])
    objects = ObjectStore(tmp_path)
    again = Snapshot(*load_checkpoint(objects, store_checkpoint(objects, whole.flat, whole.root, PLACE).ref))
    verify(again.flat, ranks[0].root, 3)
    for rank, mine in enumerate(ranks):
        found = of_rank(again, rank)

        verify(found.flat, mine.root, 3)
        assert found.root == mine.root
        assert unflatten(found.flat)["random"]["torch"].tolist() == unflatten(mine.flat)["random"]["torch"].tolist()
        assert unflatten(found.flat)["progress"]["own_streams"] == unflatten(mine.flat)["progress"]["own_streams"]


def test_ranks_that_draw_alike_leave_the_state_as_it_is() -> None:
    ranks = [kept(5), kept(5)]

    assert with_ranks(ranks[0], [streams_of(each.flat) for each in ranks]) is ranks[0]
    assert of_rank(ranks[0], 1) is ranks[0]


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31461"), True),
        (torch.distributed.DistNetworkError("failed to recv, got 0 bytes"), True),
        (RuntimeError("Connection closed by peer"), False),
    ],
)
def test_a_rank_that_is_gone_is_no_fault_of_the_run(error: Exception, is_fault: bool) -> None:  # noqa: FBT001
    assert fault_of_machine(error).startswith("another rank is gone: ") is is_fault
