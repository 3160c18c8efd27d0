"""The replay buffer: its bounds as properties, the law of its draw, and what it removes."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, HeteroData

from esper.errors import InvalidInput
from esper.simic import experience
from esper.simic.experience import Experience, Provenance
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer


def graph_of(nodes: int = 2) -> HeteroData:
    data = HeteroData()
    data["seed"].x = torch.zeros(nodes, 3)
    data["action"].x = torch.zeros(nodes, 2)
    data["action", "at", "seed"].edge_index = torch.arange(nodes).repeat(2, 1)
    return data


SMALL = graph_of()


def item(number: int, *, generation: int = 0, graph: HeteroData = SMALL) -> Experience:
    provenance = Provenance(number.to_bytes(16, "big"), "run", "spirals", number, "random", "1")
    return Experience(provenance, graph, torch.tensor([True, True]), number % 2, math.log(0.5), generation=generation)


def buffer(**fields: float) -> ReplayBuffer:
    return ReplayBuffer(BufferSettings(**{"minimum": 1, **fields}))


@pytest.mark.requirement("R-SIM-5", "R-SIM-8")
@settings(max_examples=25, deadline=None)
@given(
    capacity=st.integers(10, 1000),
    inserts=st.integers(1, 2000),
    generations=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_it_stays_in_its_bounds_and_every_item_keeps_its_own_priority(capacity, inserts, generations, seed):
    kept = buffer(capacity=capacity, generations=generations)
    generator = torch.Generator().manual_seed(seed)
    for number in range(inserts):
        kept.store(item(number, generation=number // 300))
        # The error is the item's own number, so that a priority that belongs to another would be seen.
        if number % 97 == 0:
            drawn = kept.draw(8, generator).experiences
            kept.reprioritise(drawn, [each.provenance.epoch for each in drawn])
        if number % 701 == 700:
            kept.advance(number // 300)

    items = list(kept)
    priorities = [kept.priority_of(each.key) for each in items]

    assert len(items) == len(kept) <= capacity
    assert kept.nbytes == sum(each.nbytes for each in items)
    assert all(
        priority == 1.0 or priority == each.provenance.epoch + 0.01 or priority <= kept.largest_priority
        for each, priority in zip(items, priorities, strict=True)
    )
    drawn = kept.draw(len(items), generator).experiences
    kept.reprioritise(drawn, [each.provenance.epoch for each in drawn])
    assert [kept.priority_of(each.key) for each in items] == [each.provenance.epoch + 0.01 for each in items]
    assert all(kept.generation - each.generation <= generations for each in items)


@pytest.mark.requirement("R-SIM-2")
def test_what_comes_twice_is_stored_once():
    kept = buffer()

    assert [kept.store(item(1)), kept.store(item(1)), kept.store(item(2))] == [True, False, True]
    assert (len(kept), kept.repeated) == (2, 1)
    assert item(1).key in kept


@pytest.mark.requirement("R-SIM-6")
def test_what_has_outlived_its_promotions_is_removed_and_refused():
    kept = buffer(generations=2)
    for number in range(6):
        kept.store(item(number, generation=number))

    assert kept.advance(4) == 2
    assert not kept.store(item(9, generation=1))
    assert [each.generation for each in kept] == [2, 3, 4, 5]
    assert kept.figures()["simic.buffer.expired_removed"] == 3.0


@pytest.mark.requirement("R-SIM-7")
def test_it_gives_up_the_oldest_tenth_before_its_memory_is_full():
    one = item(0).nbytes
    kept = buffer(memory_bytes=100 * one)
    sizes = []
    for number in range(400):
        kept.store(item(number))
        sizes.append(kept.nbytes)

    assert max(sizes) <= 90 * one
    assert 0 < len(kept) <= 90
    assert [each.provenance.epoch for each in kept] == list(range(400 - len(kept), 400))
    assert not kept.store(item(1000, graph=graph_of(100_000)))
    assert kept.removed["too large"] == 1


@pytest.mark.requirement("R-SIM-9")
def test_it_draws_by_priority_to_the_power_of_the_exponent_and_says_by_what_weight():
    kept = buffer()
    for number in range(4):
        kept.store(item(number))
    errors = [0.09, 0.99, 3.99, 8.99]
    kept.reprioritise(list(kept), errors)
    shares = torch.tensor([(error + 0.01) ** 0.6 for error in errors], dtype=torch.float64)
    shares /= shares.sum()

    generator = torch.Generator().manual_seed(0)
    drawn = [kept.draw(1, generator).experiences[0].provenance.epoch for _ in range(4000)]
    whole = kept.draw(4, generator)

    counts = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    assert float((counts - shares).abs().max()) < 0.025
    weights = {each.provenance.epoch: float(w) for each, w in zip(whole.experiences, whole.weights, strict=True)}
    expected = (4 * shares) ** -0.4
    assert set(weights) == {0, 1, 2, 3}
    for number in range(4):
        assert math.isclose(weights[number], float(expected[number] / expected.max()), rel_tol=1e-5)
    kept.store(item(7))
    assert kept.priority_of(item(7).key) == kept.largest_priority == 9.0


@pytest.mark.requirement("R-SIM-13")
def test_conservative_mode_draws_half_as_many_all_equally_likely():
    kept = buffer()
    for number in range(8):
        kept.store(item(number))
    kept.reprioritise(list(kept), [1000.0, *[0.0] * 7])
    generator = torch.Generator().manual_seed(0)

    careful = [kept.draw(2, generator, conservative=True) for _ in range(2000)]
    counts = torch.bincount(torch.tensor([each.experiences[0].provenance.epoch for each in careful]), minlength=8)

    assert {len(each.experiences) for each in careful} == {1}
    assert all(float(weight) == 1.0 for each in careful for weight in each.weights)
    assert int(counts.min()) > 150
    assert len(kept.draw(4, generator).experiences) == 4


@pytest.mark.requirement("R-SIM-10")
def test_nothing_is_drawn_below_the_minimum():
    kept = buffer(minimum=3)
    kept.store(item(0))
    kept.store(item(1))

    with pytest.raises(InvalidInput, match="insufficient data: 2 experiences, and nothing is drawn below 3"):
        kept.draw(1, torch.Generator())
    kept.store(item(2))
    assert len(kept.draw(1, torch.Generator()).experiences) == 1
    assert BufferSettings().minimum == 1_000
    with pytest.raises(InvalidInput, match="minimum=5"):
        BufferSettings(capacity=4, minimum=5)


@pytest.mark.requirement("R-SIM-25")
def test_a_curriculums_factors_change_the_chances_and_not_the_weights():
    kept = buffer()
    for number in range(4):
        kept.store(item(number))
    generator = torch.Generator().manual_seed(1)
    drawn = [
        kept.draw(1, generator, factors=torch.tensor([1.0, 1.0, 0.1, 0.1], dtype=torch.float64)) for _ in range(1000)
    ]

    later = sum(each.experiences[0].provenance.epoch >= 2 for each in drawn)
    assert 40 < later < 160
    assert all(float(each.weights[0]) == 1.0 for each in drawn)


@pytest.mark.requirement("R-SIM-11")
def test_a_batch_has_every_node_and_edge_and_a_broken_graph_is_found():
    graphs = [graph_of(nodes) for nodes in (1, 5, 2)]
    batch = experience.batched([item(number, graph=graph) for number, graph in enumerate(graphs)])

    assert (batch.num_nodes, batch.num_edges) == (16, 8)
    theirs = Batch.from_data_list(graphs)
    for store in (*theirs.node_stores, *theirs.edge_stores):  # torch_geometric's own takes several times as long
        names = [name for name in store.keys() if name != "ptr"]  # noqa: SIM118 - of a store, which is no dict
        assert set(batch[store._key].keys()) == set(names)
        assert all(torch.equal(batch[store._key][name], store[name]) for name in names)
    assert batch["action", "at", "seed"].edge_index.max() == 7
    assert [experience.broken(graph) for graph in graphs] == ["", "", ""]
    graphs[0]["action", "at", "seed"].edge_index[1, 0] = 3
    assert "not there" in experience.broken(graphs[0])
    graphs[1]["seed"].x[0, 0] = math.nan
    assert "number in x that is none" in experience.broken(graphs[1])


@pytest.mark.serial
@pytest.mark.requirement("R-SIM-12")
def test_storing_drawing_and_batching_keep_their_times():
    kept = buffer(generations=0)
    started = time.process_time()
    for number in range(10_000):
        kept.store(item(number))
    stored_ms = (time.process_time() - started) * 1e3 / 10_000
    generator, times = torch.Generator().manual_seed(0), []
    for _ in range(20):
        started = time.process_time()
        drawn = kept.draw(32, generator)
        middle = time.process_time()
        experience.batched(drawn.experiences)
        times.append((middle - started, time.process_time() - middle))
    started = time.process_time()
    removed = kept.advance(1)
    removed_ms = (time.process_time() - started) * 1e3

    assert stored_ms < 5.0
    assert sorted(draw for draw, _ in times)[10] < 0.050
    assert sorted(batch for _, batch in times)[10] < 0.030
    assert removed == 10_000
    assert removed_ms < 100.0
