"""Places that could be sites: what a forward pass reaches once and what gives a tensor that seeds know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import InvalidInput
from esper.kasmina.sites import Site, describe_sites
from esper.kasmina.sites_auto import choose_sites, propose_sites


class Branches(nn.Module):
    """A bit of everything: a block, a layer that runs twice, one that never does, integers, a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.shared = nn.ReLU()
        self.rnn = nn.GRU(64, 8, batch_first=True)
        self.pick = Pick()
        self.head = nn.Linear(8, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.shared(self.shared(self.conv(images)))
        tokens, _ = self.rnn(x.flatten(2))
        self.pick(tokens)
        return self.head(tokens[:, 0])


class Pick(nn.Module):
    """Gives integers."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.argmax(-1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Branches()


def forward(model: nn.Module) -> Any:
    return lambda: model(torch.ones(3, 1, 8, 8))


def test_every_submodule_is_proposed_or_told_why_not(model: nn.Module) -> None:
    before = torch.get_rng_state()

    found = {each.module: each for each in propose_sites(model, forward(model))}

    assert list(found) == ["conv.0", "conv.1", "conv.2", "conv", "shared", "rnn", "pick", "head"]
    assert (found["conv.0"].kind, found["conv.0"].shape, found["conv.0"].why_not) == ("image", (4, 8, 8), "")
    assert found["conv.1"].same_as == "conv"  # ReLU works in its place, and the block ends with it
    assert "runs 2 times" in found["shared"].why_not
    assert (found["rnn"].of_tuple, found["rnn"].kind, found["rnn"].shape) == (True, "token", (4, 8))
    assert "gives int64" in found["pick"].why_not
    assert found["head"].same_as == "what the whole model gives"
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.conv[1].num_batches_tracked


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("auto", ["conv.0", "conv"]),
        ("conv*", ["conv.0", "conv"]),
        (("conv.1", "conv.0"), ["conv.1", "conv.0"]),  # what is named by hand is taken
        ([Site("conv", "image"), ("conv.0", "image")], ["conv", "conv.0"]),
        (["conv", "c*v"], ["conv"]),
    ],
)
def test_sites_by_auto_pattern_name_and_tuple(model: nn.Module, wanted: Any, chosen: list[str]) -> None:
    sites = choose_sites(model, forward(model), wanted)

    assert [site.module for site in sites] == chosen
    described = describe_sites(model, sites, torch.ones(3, 1, 8, 8), lambda _site: [])
    assert [site.site for site in described] == chosen


def test_tuples_count_where_they_may(model: nn.Module) -> None:
    assert "rnn" in [site.module for site in choose_sites(model, forward(model), "auto", tuples=True)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("convv",), r"there is no site 'convv' in Branches; did you mean conv.* or"),
        (("features.3",), r"there is no site 'features.3' in Branches; it has conv, conv.0, "),
        (("shared",), r"'shared' cannot be a site: it runs 2 times in a forward pass"),
        (("pick",), r"'pick' cannot be a site: it gives int64"),
        (("unused",), r"site 'unused' \(Linear\) is not reached"),
        (("rnn",), r"'rnn' cannot be a site: it gives a tuple"),
        ("blocks.*", r"sites 'blocks.\*': no submodule is called so"),
        ("pick*", r"sites 'pick\*': none of pick can be a site"),
        ([Site("conv", "image"), ("conv", "vector")], "site 'conv' is named twice"),
    ],
)
def test_what_cannot_be_a_site_is_told_with_the_reason(model: nn.Module, wanted: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        choose_sites(model, forward(model), wanted)
