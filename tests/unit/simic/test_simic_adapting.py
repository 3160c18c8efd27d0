"""What adapts a trained network without losing what it knew: LoRA, EWC, and the curriculum's weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.simic import curriculum, ewc, lora


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 3))


INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.requirement("R-SIM-23")
def test_lora_starts_as_identity_and_trains_its_adapters_alone():
    net = network()
    before, said = {name: each.clone() for name, each in net.state_dict().items()}, net(INPUTS)

    names = lora.attach(net, lora.LoRASettings(), torch.Generator().manual_seed(2))
    net.train()
    assert torch.equal(net(INPUTS), said)  # with dropout: the adapter adds nothing at all while B is 0
    trained = dict(lora.adapters(net))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        net(INPUTS).square().sum().backward()
        optimizer.step()

    assert names == ["0", "3"]
    assert {tuple(each.shape) for each in trained.values()} == {(16, 6), (24, 16), (16, 24), (3, 16)}
    assert isinstance(net[0], lora.Adapted)
    assert (net[0].scale, net[0].dropout.p) == (2.0, 0.1)
    assert torch.equal(net[0].base.weight, before["0.weight"])
    assert torch.equal(net[2].weight, before["2.weight"])
    assert bool(net(INPUTS).square().sum() < said.square().sum())


@pytest.mark.requirement("R-SIM-23")
def test_merging_keeps_what_was_learnt_and_the_networks_own_layers():
    net = network()
    names = set(net.state_dict())
    lora.attach(net, lora.LoRASettings(rank=2, dropout=0.0), torch.Generator().manual_seed(2), which=lambda n: n == "3")
    nn.init.ones_(net[3].up)
    said = net(INPUTS)

    lora.merge(net)

    torch.testing.assert_close(net(INPUTS), said)
    assert set(net.state_dict()) == names
    assert all(each.requires_grad for each in net.parameters())
    with pytest.raises(InvalidInput, match="no linear layer"):
        lora.attach(net, lora.LoRASettings(), torch.Generator(), which=lambda _name: False)


@pytest.mark.requirement("R-SIM-24")
def test_ewc_is_zero_at_the_anchor_and_grows_with_the_square():
    net = network()
    likelihoods = (net(INPUTS[i % 32]).log_softmax(-1)[0] for i in range(1000))

    at = ewc.anchor(net, likelihoods)
    step = {name: torch.randn_like(each) for name, each in net.named_parameters()}
    penalties = []
    for size in (0.0, 1.0, 2.0):
        for name, each in net.named_parameters():
            each.data = at.places[name] + size * step[name]
        penalties.append(float(ewc.penalty(net, at).detach()))

    assert len(list(likelihoods)) == 1000 - ewc.SAMPLES
    expected = 0.05 * sum(float((at.importance[name] * step[name] ** 2).sum()) for name in step)
    assert penalties[0] == 0.0
    assert math.isclose(penalties[1], expected, rel_tol=1e-4)
    assert math.isclose(penalties[2], 4 * penalties[1], rel_tol=1e-4)
    with pytest.raises(InvalidInput, match="no experience"):
        ewc.anchor(net, [])


@pytest.mark.requirement("R-SIM-24")
def test_ewc_holds_what_matters_and_lets_the_rest_go():
    weights = nn.Linear(2, 1, bias=False)
    seen = torch.tensor([[1.0, 0.0]])  # only the first input was ever seen
    at = ewc.anchor(weights, (weights(seen).squeeze() for _ in range(3)))

    assert at.importance["weight"].tolist() == [[1.0, 0.0]]


@pytest.mark.requirement("R-SIM-25")
def test_the_four_stages_change_nothing_but_how_often_a_state_is_drawn():
    actions = [1, 1, 2, 3, 5, 8, 13, 21]

    stages = [curriculum.sampling_weights(actions, stage).tolist() for stage in range(4)]

    assert [sum(weight == 1.0 for weight in weights) for weights in stages] == [2, 4, 6, 8]
    assert all(set(weights) <= {1.0, curriculum.LATER} for weights in stages)
    assert [curriculum.stage_of(done) for done in (0.0, 0.24, 0.25, 0.5, 0.76, 1.0)] == [0, 0, 1, 2, 3, 3]
    with pytest.raises(InvalidInput, match="stages of the curriculum"):
        curriculum.sampling_weights(actions, 4)
    with pytest.raises(InvalidInput, match="in \\[0, 1\\]"):
        curriculum.stage_of(1.5)
