"""R-KAS-19 to R-KAS-21: the four modes against the formulas, what they refuse, and that nothing is changed in place."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import BlendUnavailable
from esper.kasmina.blending import Blend, blend_from, confidence, mix

CONVEX, RESIDUAL = leyline.BLEND_MODE_CONVEX, leyline.BLEND_MODE_RESIDUAL
CHANNEL, CONFIDENCE = leyline.BLEND_MODE_CHANNEL, leyline.BLEND_MODE_CONFIDENCE
SHAPES = {"vector": (5, 4), "token": (5, 3, 4), "image": (5, 4, 3, 3)}
VECTOR = (0.0, 0.25, 0.5, 1.0)


def pair(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPES[kind], generator=generator, requires_grad=True) for _ in range(2)]


def reference(mode, kind, h, s, alpha):
    """The formulas of R-KAS-19 in float64, written the long way."""
    h, s = h.detach().double(), s.detach().double()
    if mode == RESIDUAL:
        return h + alpha * s
    if mode == CHANNEL:
        strength = alpha * torch.tensor(VECTOR, dtype=torch.float64)
        strength = strength.view(1, 4, 1, 1) if kind == "image" else strength
        return strength * s + (1 - strength) * h
    if mode == CONFIDENCE:
        first, second = h.sort(dim=-1, descending=True).values[..., :2].split(1, dim=-1)
        gate = 1 / (1 + torch.exp(-5.0 * (first - second - 0.3)))
        strength = torch.clamp(alpha * gate, 0.1, 0.6)
        return strength * s + (1 - strength) * h
    return alpha * s + (1 - alpha) * h


CASES = [
    (mode, kind, alpha)
    for mode in (CONVEX, RESIDUAL, CHANNEL, CONFIDENCE)
    for kind in SHAPES
    for alpha in (0.0, 0.1, 0.5, 0.95, 1.0)
    if not (mode == CONFIDENCE and kind == "image")
]


@pytest.mark.requirement("R-KAS-19")
@pytest.mark.parametrize(("mode", "kind", "alpha"), CASES)
def test_modes_match_the_formulas(mode, kind, alpha):
    h, s = pair(kind)
    blend = Blend(mode=mode, channel=VECTOR, k=5.0, tau=0.3, lo=0.1, hi=0.6, logits=True)
    blend.check(kind, SHAPES[kind][1:])
    before = h.detach().clone(), s.detach().clone()
    out = mix(blend, h, s, torch.tensor(alpha), kind)
    assert torch.allclose(out.detach().double(), reference(mode, kind, h, s, alpha), atol=1e-6, rtol=0)
    assert torch.equal(h.detach(), before[0])
    assert torch.equal(s.detach(), before[1])
    assert out.data_ptr() not in (h.data_ptr(), s.data_ptr())


@pytest.mark.parametrize("mode", [CONVEX, CHANNEL, CONFIDENCE])
@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.7, 1.0])
def test_a_seed_that_is_the_identity_changes_no_bit(mode, alpha):
    h = torch.randn(64, 4) * 100
    blend = Blend(mode=mode, channel=VECTOR, logits=True)
    assert torch.equal(mix(blend, h, h.clone(), torch.tensor(alpha), "vector"), h)


def test_alpha_has_no_gradient_and_half_precision_stays_half():
    h, s = (tensor.detach().half() for tensor in pair("vector"))
    alpha = torch.tensor(0.5)
    out = mix(Blend(), h, s, alpha, "vector")
    assert out.dtype == torch.float16
    assert not alpha.requires_grad


@pytest.mark.requirement("R-KAS-21")
def test_confidence_gate_is_detached():
    """With s = 0 the mix is (1 - a) h: were the gate not detached, h's gradient would hold more than 1 - a."""
    h, _ = pair("vector")
    blend = Blend(mode=CONFIDENCE, logits=True)
    out = mix(blend, h, torch.zeros_like(h), torch.tensor(0.5), "vector")
    out.sum().backward()
    strength = 1 - out.detach() / h.detach()
    assert torch.allclose(h.grad, 1 - strength, atol=1e-5)


def test_confidence_refuses_missing_logits_when_it_runs():
    h, s = pair("vector")
    with pytest.raises(BlendUnavailable, match="has none"):
        confidence(h, s, torch.tensor(0.5), None, Blend(mode=CONFIDENCE))


@pytest.mark.parametrize(
    ("blend", "kind", "shape", "message"),
    [
        (Blend(mode=CHANNEL, channel=(0.5,) * 65), "vector", (65,), "at most 64 factors, not 65"),
        (Blend(mode=CHANNEL, channel=(0.5,) * 3), "vector", (4,), "3 factors for a site of 4 channels"),
        (Blend(mode=CHANNEL, channel=(0.5,) * 3), "token", (3, 4), "3 factors for a site of 4 channels"),
        (Blend(mode=CHANNEL, channel=(0.5, 1.5)), "image", (2, 3, 3), "from 0 to 1"),
        (Blend(mode=CHANNEL), "vector", (4,), "0 factors"),
        (Blend(mode=CONFIDENCE), "vector", (4,), "needs logits"),
        (Blend(mode=CONFIDENCE, logits=True), "image", (4, 3, 3), "needs logits"),
        (Blend(mode=CONFIDENCE, logits=True), "vector", (1,), "needs logits"),
        (Blend(mode=CONFIDENCE, logits=True, k=3.9), "vector", (4,), "k from 4 to 8"),
        (Blend(mode=CONFIDENCE, logits=True, k=8.1), "vector", (4,), "k from 4 to 8"),
        (Blend(mode=CONFIDENCE, logits=True, tau=0.05), "vector", (4,), "tau from 0.1 to 0.3"),
        (Blend(mode=CONFIDENCE, logits=True, tau=0.31), "vector", (4,), "tau from 0.1 to 0.3"),
        (Blend(mode=CONFIDENCE, logits=True, lo=0.6, hi=0.5), "vector", (4,), "lo <= hi"),
        (Blend(mode=0), "vector", (4,), "does not exist"),
    ],
)
def test_what_a_site_cannot_have_is_refused(blend, kind, shape, message):
    with pytest.raises(BlendUnavailable, match=message):
        blend.check(kind, shape)


def test_annotations_choose_the_mode_and_the_site_decides_where_they_are_silent():
    assert blend_from({}, CONVEX) == Blend()
    words = {
        "blend_mode": "confidence",
        "gate_k": "6",
        "gate_tau": "0.25",
        "alpha_lo": "0.1",
        "alpha_hi": "0.9",
        "confidence_logits": "site",
    }
    assert blend_from(words, CONVEX) == Blend(mode=CONFIDENCE, k=6.0, tau=0.25, lo=0.1, hi=0.9, logits=True)
    assert blend_from({"blend_mode": "CHANNEL", "alpha_vec": "[0, 0.5]"}, CONVEX).channel == (0.0, 0.5)


@pytest.mark.requirement("R-KAS-21")
@pytest.mark.parametrize(
    "words", [{"blend_mode": "melt"}, {"gate_k": "much"}, {"alpha_vec": "[1,"}, {"alpha_vec": "3"}]
)
def test_annotations_that_cannot_be_read_are_refused(words):
    with pytest.raises(BlendUnavailable, match="cannot be read"):
        blend_from(words, CONVEX)
