"""Karn's real templates in real hosts of the three shapes: every one but the stressors can live a life there."""

from __future__ import annotations

import functools
import uuid

import pytest
import torch
from torch import Tensor, nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import GateEvaluated
from esper.karn import catalogue
from esper.karn.approval import Approval, Clearance
from esper.karn.table import CATALOGUE
from esper.kasmina import lifecycle
from esper.kasmina.gates import Loss
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites

cross_entropy = nn.functional.cross_entropy
STEPS = 2
HARMLESS = [blueprint.blueprint_id for blueprint in CATALOGUE.values() if not blueprint.quarantine_only]
CLEARED = Clearance({blueprint_id: Approval("a tester", "tests") for blueprint_id in HARMLESS})
options = functools.partial(catalogue.options, pool=HARMLESS, clearance=CLEARED)
build = functools.partial(catalogue.build, clearance=CLEARED)


class TokenHost(nn.Module):
    """One encoder layer over token embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


def vector_host():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), Site("1", "vector"), torch.randn(16, 4)


def image_host():
    host = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten())
    return nn.Sequential(host, nn.Linear(8 * 36, 3)), Site("0.1", "image"), torch.randn(16, 1, 6, 6)


def token_host():
    return TokenHost(), Site("layer", "token"), torch.randint(0, 5, (16, 6))


HOSTS = {"vector": vector_host, "image": image_host, "token": token_host}


def command(operation: int, blueprint_id: str = "") -> leyline.AdaptationCommand:
    return leyline.AdaptationCommand(
        command_id=str(uuid.UUID(int=1)),
        command_type=leyline.COMMAND_TYPE_SEED,
        target_seed_id="s1",
        seed_operation=leyline.CommandSeedOperation(operation=operation, blueprint_id=blueprint_id),
    )


SERVING = [(kind, blueprint_id) for kind in HOSTS for blueprint_id in HARMLESS if kind in CATALOGUE[blueprint_id].kinds]


@pytest.mark.parametrize("kind", HOSTS)
def test_what_serves_a_kind_is_offered_there(kind):
    host, site, inputs = HOSTS[kind]()
    (described,) = describe_sites(host, [site], inputs, options)
    serving = [blueprint_id for served, blueprint_id in SERVING if served == kind]
    assert [option.blueprint_id for option in described.options] == serving


@pytest.mark.parametrize(("kind", "blueprint_id"), SERVING)
def test_every_offered_template_lives_through_all_stages(kind, blueprint_id):
    """Lenient limits, because what is tested is that it works and not whether it helps; no gate may fail but G4."""
    torch.manual_seed(0)
    host, site, inputs = HOSTS[kind]()
    targets = torch.arange(16) % 3
    sites = describe_sites(host, [site], inputs, options)
    settings = SeedSettings(training_epochs=1, blend_epochs=1, harm_z=1e6, drift_z=1e6, max_output_ratio=1e3)
    kasmina = Kasmina(host, sites, settings, build, steps_per_epoch=STEPS, seed=1, monotonic=lambda: 0.0)
    optimizer = torch.optim.SGD(host.parameters(), lr=0.01)

    def probe() -> Loss:
        host.eval()
        with torch.no_grad():
            losses = cross_entropy(host(inputs), targets, reduction="none")
        host.train()
        return Loss.of(losses)

    kasmina.end_epoch(probe)
    facts = kasmina.apply(command(leyline.SEED_OPERATION_GERMINATE, blueprint_id))
    start = host.state_dict()["0.0.weight" if kind == "image" else next(iter(host.state_dict()))].clone()
    for _ in range(8):
        for _ in range(STEPS):
            optimizer.zero_grad()
            kasmina.side_pass(lambda: cross_entropy(host(inputs), targets))
            cross_entropy(host(inputs), targets).backward()
            kasmina.after_backward()
            optimizer.step()
            for parameter in (p for held in kasmina.trainable().values() for p in held if p.grad is not None):
                parameter.data.add_(parameter.grad, alpha=-0.01)
            facts += kasmina.advance_step()
        facts += kasmina.end_epoch(probe)
        if kasmina.observations()[0].stage == lifecycle.PROBATIONARY and kasmina.observations()[0].gate_ready:
            break
    failed = [fact.reason for fact in facts if isinstance(fact, GateEvaluated) and not fact.passed]
    assert failed == []
    assert kasmina.observations()[0].stage == lifecycle.PROBATIONARY
    assert kasmina.drain_telemetry() == []
    assert not torch.equal(start, host.state_dict()["0.0.weight" if kind == "image" else next(iter(host.state_dict()))])
    verdict, *_ = kasmina.apply(command(leyline.SEED_OPERATION_FOSSILIZE))
    stage = kasmina.observations()[0].stage
    assert stage == (lifecycle.FOSSILIZED if verdict.passed else lifecycle.EMBARGOED)
