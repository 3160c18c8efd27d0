"""What counts as memory that a seed keeps: what its attributes hold, and neither parameters nor buffers."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.karn.approval import Approval, Clearance
from esper.karn.catalogue import build
from esper.karn.table import CATALOGUE
from esper.kasmina.isolation import MIB, kept_bytes

SHAPES = {"vector": (4,), "image": (4, 8, 8), "token": (12, 8)}
HARMLESS = [blueprint for blueprint in CATALOGUE.values() if not blueprint.quarantine_only]
CLEARED = Clearance({blueprint.blueprint_id: Approval("a tester", "tests") for blueprint in HARMLESS})


def tensor(mib: int = 1) -> torch.Tensor:
    return torch.ones(mib * MIB, dtype=torch.uint8)


@pytest.mark.parametrize(
    "held", [tensor(), [tensor()], (tensor(),), deque([tensor()]), {"a": tensor()}, [{"a": [tensor()]}]]
)
def test_tensors_in_attributes_and_containers_count_also_in_submodules(held) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert kept_bytes(module) == 0
    module[1].held = held
    assert kept_bytes(module) == MIB


def test_parameters_buffers_and_views_of_them_do_not_count_and_one_tensor_counts_once() -> None:
    module = nn.BatchNorm1d(8)
    module.mine = module.weight.detach()
    module.also = [module.running_mean[2:]]
    assert kept_bytes(module) == 0
    same = tensor()
    module.first, module.second = same, [same[:10]]
    assert kept_bytes(module) == MIB


@pytest.mark.parametrize(("blueprint_id", "kind"), [(b.blueprint_id, kind) for b in HARMLESS for kind in b.kinds])
def test_no_template_keeps_anything(blueprint_id, kind) -> None:
    site = SiteDescription(site="trunk", seed_id="s1", shape_kind=kind, shape=SHAPES[kind])
    module = build(blueprint_id, site, {}, torch.Generator().manual_seed(1), clearance=CLEARED)
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            module(torch.randn(2, *SHAPES[kind]).requires_grad_()).sum().backward()
    assert kept_bytes(module) == 0
