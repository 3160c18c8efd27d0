"""How a seed's output s is mixed with the host's activation h at strength alpha. Never in place: both are left alone.

    CONVEX      alpha s + (1 - alpha) h
    RESIDUAL    h + alpha s
    CHANNEL     alpha[c] s + (1 - alpha[c]) h         with alpha[c] = alpha * vector[c]
    CONFIDENCE  convex with clamp(alpha * g, lo, hi)  with g = sigmoid(k (margin - tau)), detached

Convex mixes are computed as h + alpha (s - h), so a seed that is still the identity leaves h bit for bit as it was.
Source: ADR-007 and R-KAS-19 to R-KAS-22. Axes: B batch, C channels, T tokens, F features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor

from contracts.leyline.v1.leyline_pb2 import (
    BLEND_MODE_CHANNEL,
    BLEND_MODE_CONFIDENCE,
    BLEND_MODE_CONVEX,
    BLEND_MODE_RESIDUAL,
    BlendMode,
)
from esper.errors import BlendUnavailable
from esper.kasmina.sites import channel_axis
from esper.leyline.json_text import parsed

MAX_CHANNELS: Final = 64


@dataclass(frozen=True, slots=True)
class Blend:
    """A blending mode with what it needs; `check` says whether a site can have it."""

    mode: BlendMode = BLEND_MODE_CONVEX
    channel: tuple[float, ...] = ()
    """CHANNEL: one factor from 0 to 1 a channel, at most 64."""
    k: float = 4.0
    """CONFIDENCE: steepness of the gate, 4 to 8."""
    tau: float = 0.2
    """CONFIDENCE: margin at which the gate is half open, 0.1 to 0.3."""
    lo: float = 0.0
    hi: float = 1.0
    logits: bool = False
    """CONFIDENCE: the site's activation is logits, last axis classes."""

    def check(self, shape_kind: str, shape: tuple[int, ...]) -> None:
        """Raise BlendUnavailable where this blend cannot be had at a site of `shape` (one sample's activation)."""
        if self.mode == BLEND_MODE_CHANNEL:
            self._check_channel(shape[channel_axis(shape_kind) - 1])
        elif self.mode == BLEND_MODE_CONFIDENCE:
            self._check_confidence(shape_kind, shape)
        elif self.mode not in (BLEND_MODE_CONVEX, BLEND_MODE_RESIDUAL):
            raise BlendUnavailable(
                f"blend mode {self.mode} does not exist; use CONVEX, RESIDUAL, CHANNEL or CONFIDENCE"
            )

    def _check_channel(self, channels: int) -> None:
        if len(self.channel) > MAX_CHANNELS:
            raise BlendUnavailable(f"CHANNEL takes at most {MAX_CHANNELS} factors, not {len(self.channel)}; use CONVEX")
        if len(self.channel) != channels:
            raise BlendUnavailable(f"CHANNEL has {len(self.channel)} factors for a site of {channels} channels")
        if not all(0.0 <= factor <= 1.0 for factor in self.channel):
            raise BlendUnavailable("CHANNEL factors must lie from 0 to 1")

    def _check_confidence(self, shape_kind: str, shape: tuple[int, ...]) -> None:
        if not self.logits or shape_kind == "image" or shape[-1] < 2:
            raise BlendUnavailable(
                "CONFIDENCE needs logits: say confidence_logits=site at a vector or token site that gives them"
            )
        if not 4.0 <= self.k <= 8.0 or not 0.1 <= self.tau <= 0.3:
            raise BlendUnavailable(
                f"CONFIDENCE takes k from 4 to 8 and tau from 0.1 to 0.3, not {self.k:g}, {self.tau:g}"
            )
        if not 0.0 <= self.lo <= self.hi <= 1.0:
            raise BlendUnavailable(f"CONFIDENCE limits must be 0 <= lo <= hi <= 1, not {self.lo:g}, {self.hi:g}")


def blend_from(annotations: Mapping[str, str], default: BlendMode) -> Blend:
    """The blend that a command's annotations ask for, the site's own mode where they say nothing.

    Raises BlendUnavailable for a mode that does not exist and for values that cannot be read.
    """
    try:
        wanted = annotations.get("blend_mode")
        return Blend(
            mode=default if wanted is None else cast("BlendMode", BlendMode.Value(f"BLEND_MODE_{wanted.upper()}")),
            channel=tuple(float(factor) for factor in parsed(annotations.get("alpha_vec", "[]"))),
            k=float(annotations.get("gate_k", 4.0)),
            tau=float(annotations.get("gate_tau", 0.2)),
            lo=float(annotations.get("alpha_lo", 0.0)),
            hi=float(annotations.get("alpha_hi", 1.0)),
            logits=annotations.get("confidence_logits") == "site",
        )
    except (ValueError, TypeError) as error:
        raise BlendUnavailable(f"blend annotations cannot be read: {error}") from None


def mix(blend: Blend, h: Tensor, s: Tensor, alpha: Tensor, shape_kind: str) -> Tensor:
    """The mixed activation, same shape as h and s; `alpha` has no axes.

    Raises BlendUnavailable where CONFIDENCE has no logits or CHANNEL no vector (`Blend.check` says so beforehand).
    """
    if blend.mode == BLEND_MODE_RESIDUAL:
        return residual(h, s, alpha)
    if blend.mode == BLEND_MODE_CHANNEL:
        vector = torch.tensor(blend.channel, dtype=h.dtype, device=h.device)
        return channel(h, s, alpha, vector, channel_axis(shape_kind))
    if blend.mode == BLEND_MODE_CONFIDENCE:
        return confidence(h, s, alpha, h if blend.logits else None, blend)
    return convex(h, s, alpha)


def convex(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Mix to alpha s + (1 - alpha) h; exactly h where s is h."""
    return torch.lerp(h, s, alpha.to(h.dtype))


def residual(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Mix to h + alpha s."""
    return torch.addcmul(h, s, alpha.to(h.dtype))


def channel(h: Tensor, s: Tensor, alpha: Tensor, vector_C: Tensor, axis: int) -> Tensor:  # noqa: N803 - axes in the name
    """Convex with a strength of its own for each channel of `axis`."""
    if vector_C.numel() != h.shape[axis] or vector_C.numel() > MAX_CHANNELS:
        raise BlendUnavailable(f"CHANNEL has {vector_C.numel()} factors for {h.shape[axis]} channels, at most 64")
    shape = [1] * h.dim()
    shape[axis] = -1
    return torch.lerp(h, s, (alpha.to(h.dtype) * vector_C).view(shape))


def confidence(h: Tensor, s: Tensor, alpha: Tensor, logits: Tensor | None, blend: Blend) -> Tensor:
    """Convex, stronger where the logits are surer. The gate has no gradient: nothing learns to look sure.

    `logits` has h's axes with classes as the last, or fewer axes that broadcast: shape (B, K) with h (B, F), (B, T, K)
    with h (B, T, F).
    """
    if logits is None:
        raise BlendUnavailable("CONFIDENCE needs logits and has none")
    with torch.no_grad():
        first, where = logits.max(dim=-1, keepdim=True)
        second = logits.scatter(-1, where, -torch.inf).amax(dim=-1, keepdim=True)  # a quarter of what topk(2) takes
        gate = torch.sigmoid(blend.k * (first - second - blend.tau))
        strength = (alpha.to(h.dtype) * gate).clamp(blend.lo, blend.hi)
    return torch.lerp(h, s, strength)
