"""Templates against slow references: what a formula in a docstring says is what the module computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.karn.approval import Approval, Clearance
from esper.karn.blueprint import SiteShape
from esper.karn.catalogue import build, measure
from esper.karn.table import CATALOGUE
from esper.karn.templates.experimental import _runge_kutta

CLEARED = Clearance({name: Approval("a tester", "tests") for name in CATALOGUE})


def module_for(blueprint_id, kind, shape, **settings):
    """With its parameters away from where they start, so that there is something to compare."""
    site = SiteDescription(site="trunk.0", seed_id="s1", shape_kind=kind, shape=shape)
    generator = torch.Generator().manual_seed(1)
    module = build(blueprint_id, site, settings, generator, clearance=CLEARED)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(requires_grad=False)


def activation(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_deformable_conv_without_offsets_is_a_convolution():
    module = module_for("BP033", "image", (4, 6, 7), offset_groups=2)
    conv = module.branch[0]
    conv.offsets.weight.zero_()
    conv.offsets.bias.zero_()
    h = activation(2, 4, 6, 7)
    weight = conv.mix.weight.view(4, 2, 2, 9).view(4, 4, 3, 3)
    expected = functional.conv2d(h, weight, conv.mix.bias, padding=1)
    torch.testing.assert_close(conv(h), expected, rtol=1e-4, atol=1e-5)


def test_deformable_conv_moved_by_one_and_a_half_pixels_reads_between():
    module = module_for("BP033", "image", (1, 5, 9))
    conv = module.branch[0]
    conv.offsets.weight.zero_()
    conv.offsets.bias.copy_(torch.tensor([1.5, 0.0]).repeat(9))  # x before y
    conv.mix.weight.zero_()
    conv.mix.weight[0, 4] = 1.0  # the tap in the middle
    conv.mix.bias.zero_()
    h = activation(1, 1, 5, 9)
    torch.testing.assert_close(conv(h)[..., :7], (h[..., 1:8] + h[..., 2:9]) / 2, rtol=1e-4, atol=1e-5)


def test_deformable_conv_over_tokens_reads_between_and_never_ahead():
    module = module_for("BP033", "token", (8, 1))
    conv = module.branch[0]
    conv.offsets.weight.zero_()
    conv.mix.bias.zero_()
    conv.mix.weight.zero_()
    conv.mix.weight[0, 1] = 1.0  # the tap one back
    h = activation(1, 8, 1)
    for offset, expected in ((-0.5, (h[:, :-2] + h[:, 1:-1]) / 2), (5.0, h[:, 2:])):
        conv.offsets.bias.fill_(offset)
        torch.testing.assert_close(conv(h)[:, 2:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "shape"), [("image", (3, 6, 6)), ("token", (9, 3)), ("vector", (5,))])
def test_dynamic_conv_is_the_convolution_with_the_mixed_kernel(kind, shape):
    module = module_for("BP025", kind, shape, experts=3).branch
    h = activation(2, *shape)
    routed = h.mean(dim=(2, 3), keepdim=True)[:1] if kind == "image" else h[:1]
    if kind == "token":
        routed = routed.mean(dim=1)  # what the last token has seen
    weights = torch.softmax(module.route(routed).flatten(), dim=0)
    kernel = module.kernels.weight.unflatten(0, (-1, 3)).mul(
        weights.view(1, 3, *(1,) * (module.kernels.weight.dim() - 1))
    )
    bias = (module.kernels.bias.view(-1, 3) * weights).sum(dim=1)
    kernel = kernel.sum(dim=1)
    if kind == "image":
        convolved = functional.conv2d(h[:1], kernel, bias, padding=1, groups=3)
    elif kind == "token":
        padded = functional.pad(h[:1].transpose(1, 2), (2, 0))
        convolved = functional.conv1d(padded, kernel, bias, groups=3).transpose(1, 2)
    else:
        convolved = functional.linear(h[:1], kernel, bias)
    expected = module.project(functional.gelu(convolved))
    answer = module(h)[:1]
    if kind == "token":
        answer, expected = answer[:, -1], expected[:, -1]
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_mixture_of_experts_is_the_loop_over_places(training):
    """First come, first served: who finds an expert full gets nothing from it."""
    module = module_for("BP036", "token", (12, 4), capacity=1.0).branch.train(training)
    h = activation(2, 12, 4)
    room = 6 if training else 12  # 1.0 * 2 choices * 12 places / 4 experts
    expected, turned_away = torch.zeros_like(h), 0
    for sample in range(2):
        served = [0] * 4
        for token in range(12):
            x = h[sample, token]
            gates, chosen = torch.softmax(module.route(x), dim=0).topk(2)
            for gate, expert in zip(gates / gates.sum(), chosen.tolist(), strict=True):
                if served[expert] == room:
                    turned_away += 1
                    continue
                served[expert] += 1
                inner = functional.gelu(x @ module.widen()[expert])
                expected[sample, token] += gate * (inner @ module.narrow[expert])
    torch.testing.assert_close(module(h), expected, rtol=1e-4, atol=1e-5)
    assert (turned_away > 0) == training


def test_a_full_expert_is_one_that_has_served_its_share():
    module = module_for("BP036", "vector", (4,), experts=8, capacity=2.0).branch.train()
    assert [module.room(places) for places in (1, 8, 64)] == [1, 4, 32]
    assert module.eval().room(64) == 64


def test_meta_learning_takes_the_steps_that_autograd_would():
    module = module_for("BP041", "image", (5, 3, 3), adapt_steps=3).branch
    h = activation(1, 5, 3, 3)
    places = module.norm(h.flatten(2).transpose(1, 2))[0]
    query, key, value = module.query_key_value(places).chunk(3, dim=-1)
    key = functional.normalize(key, dim=-1)
    fast = module.first().clone()
    for _ in range(3):
        fast.requires_grad_()
        loss = 0.5 * (key @ fast.t() - value).square().sum(dim=-1).mean()
        (gradient,) = torch.autograd.grad(loss, fast)
        fast = (fast - torch.sigmoid(module.rate) * gradient).detach()
    expected = module.project(query @ fast.t()).t().view(1, 5, 3, 3)
    torch.testing.assert_close(module(h), expected, rtol=1e-4, atol=1e-5)


def test_meta_learning_over_tokens_is_what_each_prefix_would_learn():
    module = module_for("BP041", "token", (6, 4), adapt_steps=2)
    h = activation(1, 6, 4)
    for length in (1, 4, 6):
        torch.testing.assert_close(module(h)[:, :length], module(h[:, :length]), rtol=1e-4, atol=1e-5)


def test_neural_ode_solver_is_of_fourth_order():
    """dx/dt = x cos t has the solution exp(sin t); twice the steps leave a sixteenth of the error."""
    errors = []
    for steps in (4, 8):
        x, span = torch.ones(1, dtype=torch.float64), 1.0 / steps
        for step in range(steps):
            x = _runge_kutta(lambda x, t: x * math.cos(t), x, step * span, span)
        errors.append(abs(float(x) - math.exp(math.sin(1.0))))
    assert errors[0] < 1e-4
    assert 12.0 < errors[0] / errors[1] < 20.0


def test_graph_attention_is_the_loop_over_neighbours():
    module = module_for("BP030", "image", (3, 4, 5)).branch[1]
    x = activation(1, 3, 4, 5)
    receive, send = module.receive(x)[0], module.send(x)[0]
    answer = module(x)[0]
    for row, column in ((0, 0), (0, 3), (2, 2), (3, 4)):
        near = [
            (i, j) for i in range(row - 1, row + 2) for j in range(column - 1, column + 2) if 0 <= i < 4 and 0 <= j < 5
        ]
        sent = torch.stack([send[:, i, j] for i, j in near])
        scores = module.score(functional.leaky_relu(receive[:, row, column] + sent, 0.2)).squeeze(-1)
        expected = (torch.softmax(scores, dim=0).unsqueeze(-1) * sent).sum(dim=0)
        torch.testing.assert_close(answer[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_graph_attention_knows_as_far_as_its_hops():
    for hops, reach in ((1, 1), (3, 3)):
        module = module_for("BP030", "image", (3, 9, 9), hops=hops)
        h, touched = activation(1, 3, 9, 9), activation(1, 3, 9, 9)
        touched[:, :, 4, 4] += torch.tensor([1.0, -2.0, 0.5])
        changed = (module(h) - module(touched)).abs().amax(dim=(0, 1)) > 0
        rows = changed.any(dim=1).nonzero().flatten().tolist()
        assert rows == list(range(4 - reach, 5 + reach))


def test_non_local_over_tokens_is_the_loop_over_pairs():
    module = module_for("BP034", "token", (9, 4), window=4).branch
    h = activation(1, 9, 4)
    n = module.norm(h)[0]
    theta, phi, g = module.theta(n), module.phi(n), module.g(n)
    for i in (0, 2, 8):
        seen = range(max(0, i - 3), i + 1)
        mean = torch.stack([(theta[i] @ phi[j]) * g[j] for j in seen]).mean(dim=0)
        torch.testing.assert_close(module(h)[0, i], module.project(mean), rtol=1e-4, atol=1e-5)


def test_hierarchical_attention_sees_far_blocks_as_their_mean_only():
    """Swapping two tokens inside a complete far block changes nothing at two levels; moving its mean does."""
    module = module_for("BP037", "token", (24, 6), levels=2)
    h = activation(1, 24, 6)
    swapped = h[:, [1, 0, *range(2, 24)]]
    torch.testing.assert_close(module(h)[:, 12:], module(swapped)[:, 12:], rtol=1e-4, atol=1e-5)
    moved = h.clone()
    moved[:, 0, 0] += 3.0
    assert (module(h)[:, 12:] - module(moved)[:, 12:]).abs().max() > 1e-4


def test_adaptive_pooling_over_tokens_is_the_mean_of_the_segment_so_far():
    pool = module_for("BP026", "token", (10, 2), output_size=4).branch[0]
    h = activation(1, 10, 2)
    segments = [(0, 3), (3, 5), (5, 8), (8, 10)]  # token t belongs to segment t * 4 // 10
    for start, end in segments:
        for token in range(start, end):
            torch.testing.assert_close(pool(h)[0, token], h[0, start : token + 1].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_channel_norm_is_layer_norm_over_the_channels_of_each_pixel():
    module = module_for("BP003", "image", (5, 3, 4), epsilon=1e-3)
    h = activation(2, 5, 3, 4)
    expected = functional.layer_norm(h.movedim(1, -1), (5,), module.norm.weight, module.norm.bias, 1e-3).movedim(-1, 1)
    torch.testing.assert_close(module(h), expected, rtol=1e-5, atol=1e-6)


def test_max_pooling_is_the_largest_neighbour():
    h = activation(1, 1, 5, 5)
    answer = module_for("BP007", "image", (1, 5, 5), kernel=3)(h)
    assert answer[0, 0, 0, 0] == h[0, 0, :2, :2].max()
    assert answer[0, 0, 2, 2] == h[0, 0, 1:4, 1:4].max()


def test_batch_norm_keeps_the_share_that_its_momentum_names():
    module = module_for("BP006", "vector", (3,), momentum=0.5).train()
    h = activation(64, 3) * 2.0 + 1.0
    module(h)
    torch.testing.assert_close(module.running_mean, 0.5 * h.mean(dim=0))
    torch.testing.assert_close(module.running_variance, 0.5 + 0.5 * h.var(dim=0))
    single = module(h[:1])
    torch.testing.assert_close(single, module.eval()(h[:1]))


def test_dropout_switches_off_whole_channels_of_an_image_and_keeps_the_mean():
    module = module_for("BP004", "image", (200, 3, 3), dropout=0.4).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept = module(torch.ones(20, 200, 3, 3))
    assert torch.unique(kept).tolist() == pytest.approx([0.0, 1 / 0.6])
    assert torch.equal(kept.amax(dim=(2, 3)), kept.amin(dim=(2, 3)))
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)


def test_architecture_choice_leans_to_what_it_prefers_and_more_so_when_cold():
    hot, cold = (module_for("BP040", "vector", (4,), temperature=t).branch[0] for t in (2.0, 0.5))
    h = activation(3, 4)
    for choice in (hot, cold):
        choice.preference.copy_(torch.tensor([8.0, 0.0, 0.0, 0.0, 0.0]))
    chosen = cold.candidates[0](h)
    assert (cold(h) - chosen).abs().max() < 1e-4
    assert (hot(h) - chosen).abs().max() > (cold(h) - chosen).abs().max()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(cold.train()(h), cold(h))


def test_recursion_is_one_layer_applied_again():
    module = module_for("BP042", "vector", (4,), depth=3)
    h = activation(2, 4)
    x = h
    for step in module.steps():
        x = x + module.layer(x + step)
    torch.testing.assert_close(module(h), x)
    assert sum(p.numel() for p in module.layer.parameters()) == sum(
        p.numel() for p in module_for("BP042", "vector", (4,), depth=6).layer.parameters()
    )


def test_memory_reads_the_slot_whose_key_it_asks_for():
    module = module_for("BP038", "vector", (8,)).branch
    module.sharpness.bias.fill_(500.0)
    h = activation(1, 8)
    query = module.query(module.norm(h))[0]
    module.keys.values[5] = 3.0 * query
    expected = module.project(module.values.values[5])
    torch.testing.assert_close(module(h)[0], expected, rtol=1e-3, atol=1e-3)


def test_positions_are_the_sines_of_where_a_pixel_is():
    module = module_for("BP035", "image", (3, 4, 5), frequency=0.5)
    h = torch.zeros(2, 3, 4, 5)
    phases = torch.cat([2 * module.branch.rates[0], 3 * module.branch.rates[1]])
    expected = module.branch.project(torch.cat([phases.sin(), phases.cos()]))
    torch.testing.assert_close(module(h)[1, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


def test_over_a_signal_the_convolution_along_an_axis_is_the_residual_block_at_a_third_of_its_cost():
    """In an image one pixel wide the outer columns of a 3x3 kernel see padding alone."""
    block, along = (module_for(name, "image", (4, 9, 1)) for name in ("BP009", "BP060"))
    first, second = block.blocks[0].branch[0], block.blocks[0].branch[2]
    along.branch[0].weight.copy_(first.weight[..., 1:2])
    along.branch[0].bias.copy_(first.bias)
    along.branch[2].load_state_dict(second.state_dict())
    h = activation(2, 4, 9, 1)

    torch.testing.assert_close(along(h), block(h), rtol=1e-5, atol=1e-6)
    costs = {name: measure(name, SiteShape("image", (4, 9, 1))).flops_per_sample for name in ("BP009", "BP060")}
    assert costs == {"BP009": 2 * 9 * (9 * 4 * 16 + 16 * 4), "BP060": 2 * 9 * (3 * 4 * 16 + 16 * 4)}


@pytest.mark.parametrize(
    ("blueprint_id", "shape", "taps"),
    [
        *(("BP060", (4, 8, 8), (3, 1)), ("BP060", (4, 1, 9), (1, 3)), ("BP060", (4, 9, 1), (3, 1))),
        *(("BP061", (4, 8, 8), (3, 3)), ("BP061", (4, 1, 9), (1, 3)), ("BP061", (4, 9, 1), (3, 1))),
        *(("BP062", (4, 8, 8), (3, 3)), ("BP062", (4, 1, 1), (1, 1)), ("BP062", (4, 9, 1), (3, 1))),
    ],
)
def test_a_lean_block_has_no_tap_where_there_can_be_no_pixel(blueprint_id, shape, taps):
    assert module_for(blueprint_id, "image", shape).branch[0].kernel_size == taps


def test_the_depthwise_block_filters_each_channel_and_then_maps_each_pixel():
    module = module_for("BP061", "image", (3, 6, 5), kernel=5).branch
    h = activation(2, 3, 6, 5)
    filtered = torch.cat(
        [functional.conv2d(h[:, c : c + 1], module[0].weight[c : c + 1], padding=2) for c in range(3)], dim=1
    ) + module[0].bias.view(-1, 1, 1)
    wide = torch.einsum("oi,bihw->bohw", module[1].weight[..., 0, 0], filtered) + module[1].bias.view(-1, 1, 1)
    expected = torch.einsum("oi,bihw->bohw", module[3].weight[..., 0, 0], functional.gelu(wide))

    torch.testing.assert_close(module(h), expected + module[3].bias.view(-1, 1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("expansion", "inside"), [(0.5, 2), (1.0, 3), (4.0, 12)])
def test_the_slim_block_is_as_wide_inside_as_it_is_told(expansion, inside):
    assert module_for("BP062", "vector", (3,), expansion=expansion).branch[0].out_features == inside
