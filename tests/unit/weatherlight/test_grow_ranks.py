"""A script that DistributedDataParallel trains on two processes grows the same network on both."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import esper
from projections import open_history
from tests.unit.tolaria.test_shared_world import on_two

X = torch.randn(128, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] * X[:, 1] > 0).long()


def trained(rank: int, folder) -> tuple[str, list[list[float]], dict[str, int]]:
    """The run's id, the weights of the host and what grew, as one rank has them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def probe(model):
        return functional.cross_entropy(model(X[96:]), Y[96:], reduction="none")

    batches = [slice(first, first + 8) for first in range(8 * rank, 96, 16)]
    swift = {"lifecycle": "swift", "config": {"seeds": {"proof_epochs": 2, "benefit_z": 0.0}}}
    with esper.grow(model, optimizer, probe=probe, epochs=5, log=None, data_dir=folder, **swift) as run:
        for _ in run.epochs():
            for rows in run.batches(batches):
                run.step(lambda rows=rows: functional.cross_entropy(model(X[rows]), Y[rows]))
        run.report(probe)
    weights = [each.flatten().tolist() for each in net.parameters()]
    seeds = [each.flatten().tolist() for held in run.run.kasmina.modules().values() for each in held.parameters()]
    return run.run_id, [*weights, *seeds], run.result.seeds


def test_both_ranks_grow_the_same_network_and_one_history_has_it(tmp_path) -> None:
    leads, follows = on_two(trained, tmp_path)
    assert leads == follows, (leads, follows)
    run_id, _, seeds = leads
    assert seeds["germinated"] > 0
    with open_history(tmp_path / "archive") as history:
        runs = history.execute("SELECT run_id, status FROM log.run_finished", []).fetchall()
    assert runs == [(run_id, "completed")]
