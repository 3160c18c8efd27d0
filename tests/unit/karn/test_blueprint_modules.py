"""Every template but the stressors, at every shape it serves: keeps it, learns, costs what it says, is reproducible."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import InvalidInput
from esper.karn.approval import Approval, Clearance
from esper.karn.blueprint import ALL_KINDS
from esper.karn.catalogue import DEFAULT_POOL, SAFE_POOL, build, options
from esper.karn.table import CATALOGUE, find

SHAPES = {
    "vector": [(4,), (1,), (32,)],
    "image": [(2, 8, 8), (3, 5, 7), (16, 1, 1)],
    "token": [(12, 16), (70, 6), (1, 1)],
}
ROOMY = {"vector": (16,), "image": (16, 12, 12), "token": (40, 16)}
"""Where every setting makes a difference."""
HARMLESS = [blueprint for blueprint in CATALOGUE.values() if not blueprint.quarantine_only]
CLEARED = Clearance({blueprint.blueprint_id: Approval("a tester", "tests") for blueprint in HARMLESS})
CASES = [pytest.param(b, kind, id=f"{b.blueprint_id}-{kind}") for b in HARMLESS for kind in b.kinds]
BATCH = 6
WITHOUT_PARAMETERS = ("BP001", "BP004", "BP005", "BP007", "BP011")
IN_TRAINING_OTHERWISE = ("BP004", "BP006", "BP036", "BP040")
"""These do something else while training: drop, normalise by the batch, turn places away, try choices."""


def site(kind, shape) -> SiteDescription:
    return SiteDescription(site="trunk.0", seed_id="s1", shape_kind=kind, shape=shape)


def module_for(blueprint_id, kind, shape, seed=1, **settings):
    generator = torch.Generator().manual_seed(seed)
    return build(blueprint_id, site(kind, shape), settings, generator, clearance=CLEARED)


def disturb(module):
    """The module away from its start, where a residual one is the identity whatever its settings are."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(autouse=True)
def own_stream():
    """Some modules draw while they run: from a stream that starts anew for each test."""
    with torch.random.fork_rng(devices=[]):
        draw_alike()
        yield


def draw_alike():
    """Begin the current stream anew. `torch.manual_seed` would do, and takes a stack trace for CUDA each time."""
    torch.default_generator.manual_seed(0)


def activation(shape, seed=2):
    return torch.randn((BATCH, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.requirement("R-TEZ-2")
@pytest.mark.parametrize(("blueprint", "kind"), CASES)
def test_a_module_keeps_every_promise(blueprint, kind):
    """One test a blueprint and kind of site: its modules are built once for every shape and looked at in all ways."""
    for shape in SHAPES[kind]:
        module = built_reproducibly(blueprint, kind, shape)
        keeps_the_shape_and_begins_as_it_says(module, shape)
        every_gradient_is_there_and_finite(module, shape)
        disturb(module).eval()
        a_sample_depends_neither_on_the_others_nor_on_chance(module, shape)
        if shape == (70, 6):
            no_token_sees_what_comes_after_it(module)
    if blueprint.blueprint_id not in WITHOUT_PARAMETERS:
        every_parameter_moves_and_the_loss_falls(blueprint, kind)
    training_differs_only_where_it_must(blueprint, kind)
    for setting in blueprint.settings:
        the_setting_changes_what_is_computed(blueprint, kind, setting)


def built_reproducibly(blueprint, kind, shape):
    """The same generator gives the same bits, and the global stream is untouched."""
    untouched = torch.get_rng_state()
    module, again = (module_for(blueprint.blueprint_id, kind, shape, seed=7) for _ in range(2))
    first, second = module.state_dict(), again.state_dict()
    assert torch.equal(torch.get_rng_state(), untouched)
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    return module


def keeps_the_shape_and_begins_as_it_says(module, shape):
    h = activation(shape)
    with torch.no_grad():
        s = module(h)
    assert s.shape == h.shape
    assert not module.residual or torch.equal(s, h)


def every_gradient_is_there_and_finite(module, shape):
    h = activation(shape).requires_grad_()
    (module(h) - activation(shape, seed=3)).square().mean().backward()
    gradients = {"the activation": h.grad, **{name: each.grad for name, each in module.named_parameters()}}
    assert [name for name, each in gradients.items() if each is None or not torch.isfinite(each).all()] == []


@torch.no_grad()
def a_sample_depends_neither_on_the_others_nor_on_chance(module, shape):
    """In evaluation."""
    h = activation(shape)
    together = module(h)
    assert torch.equal(module(h), together)
    torch.testing.assert_close(module(h[2:3]), together[2:3], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def no_token_sees_what_comes_after_it(module):
    """Neither in evaluation nor while training, where draws are the same for both."""
    h = activation((70, 6))
    changed = h.clone()
    changed[:, 50:] = activation((70, 6), seed=9)[:, 50:]
    for training in (False, True):
        module.train(training)
        seen = []
        for tokens in (h, changed):
            draw_alike()
            seen.append(module(tokens)[:, :50])
        torch.testing.assert_close(*seen, rtol=0, atol=1e-6)


def every_parameter_moves_and_the_loss_falls(blueprint, kind):
    shape = SHAPES[kind][0]
    module = module_for(blueprint.blueprint_id, kind, shape)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    h, target = activation(shape), activation(shape, seed=3)
    losses = []
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(10):
        loss = (module(h) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [name for name, parameter in module.named_parameters() if torch.equal(parameter, before[name])] == []


@torch.no_grad()
def training_differs_only_where_it_must(blueprint, kind):
    tight = {"capacity": 1.0} if blueprint.blueprint_id == "BP036" else {}
    module = disturb(module_for(blueprint.blueprint_id, kind, ROOMY[kind], **tight))
    draw_alike()
    training, evaluation = module(activation(ROOMY[kind])), module.eval()(activation(ROOMY[kind]))
    assert torch.equal(training, evaluation) == (blueprint.blueprint_id not in IN_TRAINING_OTHERWISE)


@torch.no_grad()
def the_setting_changes_what_is_computed(blueprint, kind, setting):
    outputs = []
    for value in (setting.minimum, setting.maximum):
        module = disturb(module_for(blueprint.blueprint_id, kind, ROOMY[kind], **{setting.name: value}))
        draw_alike()
        while_training = module(activation(ROOMY[kind]))
        outputs.append(torch.cat([while_training, module.eval()(activation(ROOMY[kind]))]))
    assert not torch.equal(*outputs), setting.name


@pytest.mark.requirement("R-TEZ-2")
def test_another_seed_gives_other_weights():
    one, two = (module_for("BP009", "vector", (4,), seed=seed) for seed in (1, 2))
    assert not torch.equal(next(one.parameters()), next(two.parameters()))


@pytest.mark.requirement("R-TAM-14")
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_options_say_what_is_built(kind):
    shape = SHAPES[kind][0]
    found = options(site(kind, shape), pool=[b.blueprint_id for b in HARMLESS], clearance=CLEARED)
    assert [option.blueprint_id for option in found] == [b.blueprint_id for b in HARMLESS if kind in b.kinds]
    for option in found:
        module = module_for(option.blueprint_id, kind, shape)
        assert option.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert (option.parameters == 0) == (option.blueprint_id in WITHOUT_PARAMETERS)
        assert option.residual == module.residual
        assert option.risk == pytest.approx(find(option.blueprint_id).risk)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_site_offers_the_small_pool_unless_asked_for_more(kind):
    offered = [option.blueprint_id for option in options(site(kind, SHAPES[kind][0]))]
    assert offered == [name for name in DEFAULT_POOL if kind in CATALOGUE[name].kinds]
    more = [option.blueprint_id for option in options(site(kind, SHAPES[kind][0]), pool=SAFE_POOL)]
    assert set(offered) < set(more)
    assert set(more) <= set(SAFE_POOL)


def test_what_three_large_sites_offer_fits_into_a_state_packet():
    """An observation of up to 4 KiB travels in its event; even all safe templates leave half of that."""
    large = [site("image", (256, 32, 32)), site("image", (512, 16, 16)), site("token", (512, 256))]
    by_default = sum(option.ByteSize() + 2 for each in large for option in options(each))
    all_safe = sum(option.ByteSize() + 2 for each in large for option in options(each, pool=SAFE_POOL))
    assert by_default < 1300
    assert all_safe < 2600


def test_flops_of_a_known_module():
    (block,) = [option for option in options(site("vector", (4,))) if option.blueprint_id == "BP009"]
    assert block.parameters == (4 * 16 + 16) + (16 * 4 + 4)
    assert block.flops_per_sample == 2 * (4 * 16 + 16 * 4)


@pytest.mark.requirement("R-KARN-17")
def test_editing_an_option_leaves_the_catalogue_as_it_was():
    first = options(site("vector", (4,)))
    first[0].blueprint_id = "changed"
    assert options(site("vector", (4,)))[0].blueprint_id == "BP001"


def test_attention_does_not_look_further_back_than_its_window():
    module = module_for("BP020", "token", (70, 6), sequence_length=16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3)
        h = activation((70, 6))
        changed = h.clone()
        changed[:, 0] = 5.0
        difference = (module(h) - module(changed)).abs().amax(dim=(0, 2))
    assert difference[:16].min() > 0
    assert difference[16:].max() == 0


def test_a_shape_that_is_not_served_or_makes_no_sense_is_refused():
    with pytest.raises(InvalidInput, match="does not serve a vector site; it serves image, token"):
        module_for("BP023", "vector", (4,))
    with pytest.raises(InvalidInput, match="image means 3 sizes"):
        module_for("BP009", "image", (4,))
    with pytest.raises(InvalidInput, match="must be vector, image or token"):
        options(site("volume", (4,)))
    with pytest.raises(InvalidInput, match=r"depth = 9 is outside \[1, 4\]"):
        module_for("BP009", "vector", (4,), depth=9)
