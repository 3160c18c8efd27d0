"""More heads in attention: what is a place for them and what not, bit-equal absorption, moments, going back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.errors import InvalidInput
from esper.karn import catalogue
from esper.kasmina import lifecycle
from esper.kasmina.sites import Site, describe_sites
from esper.tolaria.hosts import TransformerBlock

from .test_width_seeds import Garden, load, passes, plain, save

WIDTH, HEADS, SIZE = 6, 2, 3
QKV, UP = (
    Site("block.qkv", "token", consumer="block.out", head_size=SIZE),
    Site("block.up", "token", consumer="block.down"),
)


class Tokens(nn.Module):
    """Features (B, 3), each of which is a token, through a Transformer block to two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, WIDTH)
        self.block = TransformerBlock(WIDTH, HEADS, 8)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.embed(x[..., None])).mean(dim=1))
        return logits


def garden(**settings) -> Garden:
    """A Transformer in training, where s1 adds heads and s2 widens the GELU layer."""
    torch.manual_seed(1)
    return Garden(Tokens(), (QKV, UP), pool=("BP051", "BP052"), **settings)


def by_hand(block: TransformerBlock, tokens: Tensor) -> Tensor:
    """What the block's attention adds, one head after the other, as the formula has it."""
    query, key, value = block.qkv(block.norm1(tokens)).chunk(3, dim=-1)
    future = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    heads = []
    for first in range(0, query.shape[-1], SIZE):
        q, k, v = (each[..., first : first + SIZE] for each in (query, key, value))
        shares = (q @ k.transpose(1, 2) / SIZE**0.5).masked_fill(future, -torch.inf).softmax(dim=-1)
        heads.append(shares @ v)
    added: Tensor = block.out(torch.cat(heads, dim=-1))
    return added


def test_attention_is_a_place_for_heads_of_the_same_size():
    host = Tokens()
    before = copy.deepcopy(host.state_dict())
    site, _ = describe_sites(host, [QKV, UP], torch.randn(8, 3), catalogue.options)

    assert (site.width.units, site.width.sections, site.width.group, list(site.shape)) == (6, 3, SIZE, [3, 18])
    assert list(site.width.between) == []
    cost = 3 * (WIDTH + 1) + WIDTH
    assert [(each.blueprint_id, each.parameters) for each in site.options] == [("BP052", 6 * cost)]
    assert site.width.flops_per_unit == 2 * (3 * (4 * WIDTH) + 2 * 3 * 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in host.state_dict().items())


def test_a_life_of_new_heads_changes_no_bit_when_they_become_the_hosts():
    growing = garden()
    narrow = growing.outputs()
    growing.command("GERMINATE", "s1", "BP052", factor=0.5)
    assert torch.equal(growing.outputs(), narrow)
    growing.until(lifecycle.PROBATIONARY, "s1")
    module = growing.kasmina.modules()["s1"]
    assert float(module.consumer_weight.detach().abs().sum()) > 0
    mixed, state = growing.outputs(), growing.host.state_dict()
    with growing.kasmina._grafts.passing(without=[growing.kasmina._slots["s1"]]):
        assert not torch.allclose(growing.outputs(), mixed)
    before = passes(growing.host, growing.inputs)

    fact = growing.absorb("s1")

    assert torch.equal(growing.outputs(), mixed)
    after = passes(growing.host, growing.inputs)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert (fact.units_before, fact.units, fact.opened, plain(growing.host)) == (6, 9, "s3", True)
    block = growing.host.block
    assert (block.qkv.out_features, block.out.in_features, block.out.out_features) == (27, 9, WIDTH)
    queries = block.qkv.weight[:9]
    assert torch.equal(queries[:6], state["block.qkv.weight"][:6])
    assert torch.equal(queries[6:], module.producer_weight[:3])
    tokens = torch.randn(4, 5, WIDTH)
    added = by_hand(block, tokens)
    refined = tokens + added
    expected = refined + block.down(functional.gelu(block.up(block.norm2(refined))))
    torch.testing.assert_close(block(tokens), expected)
    site = growing.kasmina.sites()["s3"]
    assert (site.width.units, list(site.shape)) == (9, [3, 27])
    growing.command("GERMINATE", "s3", "BP052")
    growing.until(lifecycle.PROBATIONARY, "s3")
    assert growing.absorb("s3").units == 18


def test_the_moments_of_new_heads_stand_behind_those_of_queries_keys_and_values():
    growing = garden()
    growing.command("GERMINATE", "s1", "BP052", factor=0.5)
    growing.until(lifecycle.PROBATIONARY, "s1")
    module, weight = growing.kasmina.modules()["s1"], growing.host.block.qkv.weight
    states = growing.optimizer.torch.state
    own, old = dict(states[module.producer_weight]), dict(states[weight])
    growing.absorb("s1")

    now = states[weight]["exp_avg"].unflatten(0, (3, 9))
    decay = 0.9
    factor = (1 - decay ** float(old["step"])) / (1 - decay ** float(own["step"]))
    assert torch.equal(now[:, :6].flatten(0, 1), old["exp_avg"])
    assert torch.equal(now[:, 6:].flatten(0, 1), own["exp_avg"] * factor)


def test_heads_and_units_of_the_same_block_grow_side_by_side_and_every_structure_comes_back():
    growing, stops = garden(), []
    for seed_id, blueprint in (("s1", "BP052"), ("s2", "BP051"), ("s3", "BP052")):
        stops.append((save(growing), growing.outputs()))
        growing.command("GERMINATE", seed_id, blueprint)
        growing.until(lifecycle.PROBATIONARY, seed_id)
        growing.absorb(seed_id)
    stops.append((save(growing), growing.outputs()))

    fresh = garden()
    for number in (3, 0, 2, 1, 3):
        for each in (growing, fresh):
            load(each, stops[number][0])
            assert torch.equal(each.outputs(), stops[number][1])
    for each in (growing, fresh):
        torch.manual_seed(0)
        each.epoch()
    assert torch.equal(growing.outputs(), fresh.outputs())
    network = fresh.kasmina.grown()
    assert network.block.qkv.out_features == 3 * 24
    exported = torch.export.export(network.eval(), (fresh.inputs,)).module()
    assert torch.equal(exported(fresh.inputs), fresh.outputs())


def test_the_evidence_of_heads_is_that_of_their_values_with_a_candidate_or_without():
    growing = garden()

    def loss():
        return functional.cross_entropy(growing.host(growing.inputs), growing.targets)

    def evidence(*, candidates):
        return growing.kasmina.evidence(loss, candidates=candidates)[0]

    alone, tried = evidence(candidates=False), evidence(candidates=True)
    assert tried.candidate_descent > 0.0
    assert not alone.HasField("candidate_descent")
    assert 0.0 < alone.activation_rank <= WIDTH
    assert tried.activation_rank == pytest.approx(alone.activation_rank, rel=1e-4)
    assert tried.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-4)


class Counted(TransformerBlock):
    """Attention that says how many heads it has, as many do."""

    def forward(self, tokens_BTD: Tensor) -> Tensor:  # noqa: N803 - axes
        shape = tokens_BTD.shape
        qkv = self.qkv(tokens_BTD).view(*shape[:2], 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        return self.out(functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(shape))


class HeadByHead(TransformerBlock):
    """Queries, keys and values of one head behind those of the other."""

    def forward(self, tokens_BTD: Tensor) -> Tensor:  # noqa: N803 - axes
        qkv = self.qkv(tokens_BTD).unflatten(-1, (-1, 3, SIZE)).permute(3, 0, 2, 1, 4)
        return self.out(functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))


class Torchs(nn.Module):
    """PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.qkv(tokens, tokens, tokens)[0])


@pytest.mark.parametrize(
    ("make", "size", "why"),
    [
        (Torchs, SIZE, "qkv is an nn.MultiheadAttention, whose heads share out its embedding"),
        (lambda: Counted(WIDTH, HEADS, 8), SIZE, "the Counted itself stands in the way: RuntimeError: shape"),
        (lambda: HeadByHead(WIDTH, HEADS, 8), SIZE, "mixes the units, or does not keep the first ones first"),
        (lambda: TransformerBlock(WIDTH, HEADS, 8), 5, "qkv is a Linear of 18 units, and queries, keys and values"),
        (lambda: TransformerBlock(WIDTH, HEADS, 8), 0, "qkv does not grow|stands in the way"),
    ],
)
def test_attention_that_cannot_have_more_heads_is_refused_with_the_reason(make, size, why):
    with pytest.raises(InvalidInput, match=why):
        describe_sites(
            make(), [Site("qkv", "token", consumer="out", head_size=size)], torch.randn(8, 4, WIDTH), lambda _: []
        )
