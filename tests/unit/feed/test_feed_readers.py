"""Several readers of one archive: workers, ranks, and whose state is whose."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchdata.stateful_dataloader import StatefulDataLoader

from esper.errors import InvalidInput
from streams.feed import Field, Schema
from tests.unit.feed.wanted import REPORTS


@contextmanager
def ranked(rank, ranks):
    """This process as one of many ranks; torch's own `fake` group, which has no others."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_goes_on_where_its_state_was_taken(feed, made, workers, small_blocks, events_of):
    def loader():
        return StatefulDataLoader(feed(batch_size=16), batch_size=None, num_workers=workers)

    left = loader()
    seen = []
    for count, batch in enumerate(left, 1):
        seen += batch["event_id"].tolist()
        if count == 5:
            state = left.state_dict()
            break
    going_on = loader()
    going_on.load_state_dict(state)
    for batch in going_on:
        seen += batch["event_id"].tolist()
    again = [row for batch in going_on for row in batch["event_id"].tolist()]

    everything = sorted(list(event.event_id) for event in events_of(made, "epoch_completed"))
    assert sorted(seen) == everything
    assert sorted(again) == everything, "the next epoch is whole"


def test_more_readers_than_partitions_is_said_and_loses_nothing(feed, made, caplog, events_of):
    seen, counts = [], []
    for number in range(6):
        with caplog.at_level(logging.WARNING), ranked(number, 6):
            rows = [row for batch in feed() for row in batch["event_id"].tolist()]
        seen += rows
        counts.append(len(rows))

    assert sorted(seen) == sorted(list(event.event_id) for event in events_of(made, "epoch_completed"))
    assert [count > 0 for count in counts] == [True] * 4 + [False] * 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "reader 4 of 6 gets no events",
        "reader 5 of 6 gets no events",
    ]


def test_a_run_belongs_to_one_reader(feed, made, events_of):
    names = {event.run_id for event in events_of(made, "epoch_completed")}
    runs = Schema("epoch_completed", [Field("run_id", "run", among=tuple(sorted(names)))])
    held = []
    for number in range(2):
        with ranked(number, 2):
            held.append({run for batch in feed(runs) for run in batch["run"].tolist()})

    assert held[0]
    assert held[1]
    assert held[0] | held[1] == set(range(1, len(names) + 1))
    assert not held[0] & held[1]


def test_the_state_of_another_reader_or_another_feed_is_refused(feed):
    state = _state_after_one(feed())
    other_types = feed(REPORTS)
    other_types.load_state_dict(state)
    with pytest.raises(InvalidInput, match="is of other event types"):
        iter(other_types)

    other_rank = feed()
    other_rank.load_state_dict(state)
    with ranked(1, 2), pytest.raises(InvalidInput, match="is of reader 1 of 1 and this is reader 2 of 2"):
        iter(other_rank)


def _state_after_one(read):
    next(iter(read))
    return read.state_dict()
