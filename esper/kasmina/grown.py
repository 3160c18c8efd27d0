"""What a run leaves: the host with its seeds as ordinary submodules, without hooks, stages, gates or a trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from contracts.leyline.v1.leyline_pb2 import BLEND_MODE_CONVEX
from esper.kasmina import lifecycle
from esper.kasmina.blending import mix
from esper.kasmina.seed import Seed, Slot
from esper.kasmina.sites import activation_of, with_activation


class Grown(nn.Module):
    """A submodule of a host and the seed that grew behind it, as the one module that stands in the submodule's place.

    Takes what `site` takes and gives what it gave: its activation h, mixed with the seed's output s(h) at `strength`,
    a number without axes that is no parameter and no part of the state dictionary (`blend` says how they mix, as in
    `esper.kasmina.blending`). The seed of a finished life is at strength 1, and CONVEX then gives s(h) itself.
    """

    strength: Tensor

    def __init__(self, site: nn.Module, slot: Slot) -> None:
        super().__init__()
        seed = slot.occupant()
        self.site = site
        self.seed = seed.module.requires_grad_()  # SHADOWING and `freeze_fossils` had it frozen
        self.blend = seed.blend
        self.shape_kind = slot.description.shape_kind
        self.seed_id = slot.seed_id
        self.blueprint_id = seed.blueprint_id
        self.stage = lifecycle.name(slot.stage)
        self.alone = seed.blend.mode == BLEND_MODE_CONVEX and slot.alpha == 1.0
        self.register_buffer("strength", torch.tensor(slot.alpha, dtype=_dtype(seed)), persistent=False)

    @property
    def proven(self) -> bool:
        """Whether the seed is part of the network for good: FOSSILIZED, which no gate undoes."""
        return self.stage == lifecycle.name(lifecycle.FOSSILIZED)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The mixed activation, of the site's shape; of a site that gives a tuple it is the first element."""
        output = self.site(*inputs, **named)
        h: Tensor = activation_of(output)
        s: Tensor = self.seed(h)
        return with_activation(output, s if self.alone else mix(self.blend, h, s, self.strength, self.shape_kind))

    def extra_repr(self) -> str:
        """Which seed this is, as `esper why` names it."""
        return f"{self.seed_id}: {self.blueprint_id}, {self.stage}, alpha {float(self.strength):g}"


def _dtype(seed: Seed) -> torch.dtype:
    return next((each.dtype for each in seed.module.parameters() if each.is_floating_point()), torch.float32)


def build_in(host: nn.Module, slots: Iterable[Slot]) -> nn.Module:
    """The host with every seed that is mixed in as a submodule at its site; the slots are empty afterwards.

    Seeds that are not mixed in are left out, and a width seed, which is no module of its own, is absorbed before. The
    host itself is changed, and it is what is returned unless it is a site as a whole.
    """
    sites = dict(host.named_modules())
    for slot in slots:
        if slot.stage in lifecycle.MIXED and slot.seed is not None and not slot.widens:
            name = slot.description.site
            grown = Grown(sites[name], slot)
            host = _put(host, sites[name], grown)
            sites[name] = grown
        slot.empty()
    return host


def _put(host: nn.Module, site: nn.Module, grown: Grown) -> nn.Module:
    """The host with `grown` wherever `site` was: a submodule may have several names."""
    for parent in list(host.modules()):
        for name in [name for name, child in parent._modules.items() if child is site]:  # noqa: SLF001 - the public
            setattr(parent, name, grown)  # iterators leave out the second name of a submodule
    return grown if host is site else host
