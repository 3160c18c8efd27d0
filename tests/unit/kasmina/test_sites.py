"""Sites: any submodule of any host, found by one forward that leaves no trace; a dormant site is no code at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import BlueprintOption
from contracts.leyline.v1.leyline_pb2 import BLEND_MODE_CHANNEL, BLEND_MODE_CONVEX
from esper.errors import InvalidInput
from esper.kasmina.sites import Site, describe_sites


class ByName(nn.Module):
    """Gives its tensor by name."""

    def forward(self, tokens):
        return {"tokens": tokens}


class Mixed(nn.Module):
    """Image, token and vector activations.

    `unused` never runs, `twice` runs twice, `attention` gives a tuple and `named` a dict.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.named = ByName()
        self.twice = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(4, 3)
        self.embedding = nn.Embedding(10, 4)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.twice(self.twice(tokens + self.embedding.weight[0]))
        tokens, _ = self.attention(tokens, tokens, tokens)
        tokens = self.named(tokens)["tokens"]
        return self.head(self.drop(tokens).mean(1))


def no_options(_site):
    return []


def test_every_shape_kind_is_found():
    sites = [
        Site("head", "vector"),
        Site("stem.1", "image", BLEND_MODE_CHANNEL),
        Site("drop", "token"),
    ]
    found = describe_sites(Mixed(), sites, torch.randn(2, 1, 5, 5), no_options)
    assert [(s.site, s.seed_id, tuple(s.shape), s.depth) for s in found] == [
        ("head", "s1", (3,), 2),
        ("stem.1", "s2", (4, 5, 5), 0),
        ("drop", "s3", (25, 4), 1),
    ]
    assert [s.blend_mode for s in found] == [BLEND_MODE_CONVEX, BLEND_MODE_CHANNEL, BLEND_MODE_CONVEX]


def test_the_host_itself_can_be_a_site():
    assert tuple(describe_sites(nn.Linear(3, 2), [Site("", "vector")], torch.randn(4, 3), no_options)[0].shape) == (2,)


def test_options_see_the_shape_and_are_kept():
    def options(site):
        return [BlueprintOption(blueprint_id="B", parameters=site.shape[0])]

    assert (
        describe_sites(nn.Linear(3, 2), [Site("", "vector")], torch.randn(4, 3), options)[0].options[0].parameters == 2
    )


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site("stem.7", "image"), r"no site 'stem.7' in Mixed; did you mean stem.1 or stem.0 or stem\?"),
        (Site("unused", "vector"), "runs 0 times"),
        (Site("twice", "token"), "runs 2 times"),
        (Site("named", "token"), "gives a dict; a seed needs one tensor"),
        (Site("stem.1", "vector"), r"gives torch.float32 of shape \(2, 4, 5, 5\); vector means"),
        (Site("head", "grid"), "shape kind 'grid'; known are vector, image, token"),
    ],
)
def test_a_site_that_cannot_be_is_refused_with_the_way_out(site, message):
    with pytest.raises(InvalidInput, match=message):
        describe_sites(Mixed(), [site], torch.randn(2, 1, 5, 5), no_options)


def test_of_a_site_that_gives_a_tuple_the_first_element_is_meant():
    (found,) = describe_sites(Mixed(), [Site("attention", "token")], torch.randn(2, 1, 5, 5), no_options)
    assert tuple(found.shape) == (25, 4)


def test_a_site_named_twice_is_refused():
    with pytest.raises(InvalidInput, match="'head' is named 2 times"):
        describe_sites(Mixed(), [Site("head", "vector")] * 2, torch.randn(2, 1, 5, 5), no_options)


def test_describing_leaves_no_trace():
    host = Mixed().train()
    host.stem[1].eval()  # a person's own choice survives
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    random_state = torch.get_rng_state()
    describe_sites(host, [Site("head", "vector"), Site("stem.1", "image")], torch.randn(2, 1, 5, 5).clone(), no_options)
    torch.set_rng_state(random_state)
    describe_sites(host, [Site("head", "vector"), Site("stem.1", "image")], torch.ones(2, 1, 5, 5), no_options)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in host.state_dict().items())
    assert all(parameter.grad is None for parameter in host.parameters())
    assert host.training
    assert host.drop.training
    assert not host.stem[1].training
    assert not any(module._forward_hooks for module in host.modules())


def test_a_dormant_site_is_no_code_in_the_forward_path(lab):
    """Kasmina is there, two sites are described, and the host has not one hook."""
    assert lab.hooks() == 0
    lab.epoch()
    lab.germinate()
    assert lab.hooks() == 0
    lab.until(3)
    assert lab.hooks() == 0  # TRAINING learns aside, so not even then


def test_kasmina_refuses_sites_that_the_host_does_not_have(lab):
    lab.sites[0].site = "elsewhere"
    with pytest.raises(InvalidInput, match="no site 'elsewhere' in Host; it has first, norm, act, drop, second, last"):
        lab.new_kasmina()
