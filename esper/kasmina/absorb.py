"""The host's structure: width seeds that are absorbed into it, the slots that open there, and going back before that.

Absorbing concatenates a seed's weights behind the host's own, in the parameters that the host has: they stay the
objects that an optimiser holds, and only become larger. What an optimiser kept of the seed's parameters joins them
there (`GroupedOptimizer.absorb`); `Part` says what became of which parameter.

Everything here follows from the places as they were at the start and the list of what was absorbed, so a saved state
needs to hold that list alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import BlueprintOption, SeedAbsorbed, SiteDescription
from esper.errors import CorruptState
from esper.kasmina.seed import Slot
from esper.kasmina.settings import SeedSettings
from esper.kasmina.width import joined
from esper.kasmina.width_places import fill_place

Options = Callable[[SiteDescription], list[BlueprintOption]]
"""What could grow at a place, as `esper.kasmina.sites.describe_sites` asks it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter that became larger: `added` entries more along `axis`, at the end, or so many `sections` of them.

    Each section of them is behind a section of what was there. They are those of `joined`, a parameter of a seed that
    is gone now; zeros where that is None.
    """

    parameter: nn.Parameter
    axis: int
    added: int
    joined: nn.Parameter | None = None
    sections: int = 1


class Structure:
    """A host's layers as far as width seeds change them, and the slots of its places."""

    def __init__(self, host: nn.Module, slots: dict[str, Slot], options: Options | None) -> None:
        self._host = host
        self._slots = slots
        self._options = options
        self._first = {seed_id: _copy(slot.description) for seed_id, slot in slots.items()}
        self._root = {seed_id: seed_id for seed_id, site in self._first.items() if site.HasField("width")}
        self._inputs = {seed_id: self._layers(seed_id)[1].get_parameter("weight").shape[1] for seed_id in self._root}
        self._absorbed: list[tuple[str, int]] = []

    def state(self) -> list[list[Any]]:
        """The seeds that were absorbed, in order, each with how many units it had."""
        return [[seed_id, units] for seed_id, units in self._absorbed]

    def obstacle(self, slot: Slot, settings: SeedSettings) -> str:
        """Why nothing can germinate in the slot now; empty where nothing stands in the way."""
        for other in self._slots.values():
            if other.seed is None:
                continue
            if slot.widens and other.seed_id in slot.description.width.between:
                return f"{other.seed_id} holds a seed between {_place(slot)}"
            if other.widens and slot.seed_id in other.description.width.between:
                return (
                    f"{other.seed_id} is widening what {slot.seed_id} would work on; wait until it is absorbed or gone"
                )
        return _unsupported(settings) if slot.widens else ""

    # ------------------------------------------------------------------------------------------------------- absorption

    def absorb(self, slot: Slot) -> tuple[SeedAbsorbed, list[Part]]:
        """Make the slot's seed part of the host, and open a slot at the wider place.

        The slot keeps no module; the host computes what it did, bit for bit, where the seed was mixed in at alpha 1.
        """
        seed, site = slot.occupant(), _copy(slot.description)
        own = dict(seed.module.named_parameters()) | dict(seed.module.named_buffers())
        units = len(own["producer_weight"]) // _sections(site)
        slot.detach()
        before = sum(parameter.numel() for parameter in self._host.parameters())
        parts = [*self._widen_layers(site, own), *self._widen_neighbours(slot, site, units)]
        slot.absorbed, slot.seed = seed.blueprint_id, None
        self._absorbed.append((slot.seed_id, units))
        opened = self._open(slot.seed_id)
        self._describe_anew()
        fact = SeedAbsorbed(
            seed_id=slot.seed_id,
            site=site.site,
            consumer=site.width.consumer,
            blueprint_id=seed.blueprint_id,
            life=slot.life,
            units_before=site.width.units,
            units=site.width.units + units,
            parameters=sum(parameter.numel() for parameter in self._host.parameters()) - before,
            opened=opened,
        )
        return fact, parts

    def _widen_layers(self, site: SiteDescription, own: Mapping[str, Tensor]) -> Iterator[Part]:
        producer, consumer = self._layers(self._root_of(site))
        sections = _sections(site)
        units = len(own["producer_weight"]) // sections
        yield _joined(producer.get_parameter("weight"), 0, own["producer_weight"], sections)
        if site.width.bias:
            yield _joined(producer.get_parameter("bias"), 0, own["producer_bias"], sections)
        for number, name in enumerate(site.width.norms):
            norm = self._host.get_submodule(name)
            yield _joined(norm.get_parameter("weight"), 0, own[f"norm_{number}_weight"])
            yield _joined(norm.get_parameter("bias"), 0, own[f"norm_{number}_bias"])
            if site.width.running[number]:
                norm.running_mean = torch.cat([norm.get_buffer("running_mean"), own[f"norm_{number}_mean"]])
                norm.running_var = torch.cat([norm.get_buffer("running_var"), own[f"norm_{number}_var"]])
            _count_units(norm, site.width.units + units)
        yield _joined(consumer.get_parameter("weight"), 1, own["consumer_weight"])
        _count(producer, consumer)

    def _widen_neighbours(self, slot: Slot, site: SiteDescription, units: int) -> Iterator[Part]:
        """Seeds that live at a layer which became wider: zeros, which is what their place in the product was."""
        for other in self._slots.values():
            if other is slot or other.seed is None or not other.widens:
                continue
            if other.description.site == site.width.consumer:
                weight = other.seed.module.get_parameter("producer_weight")
                yield _padded(weight, 1, units * site.width.outgoing[1])
            if other.description.width.consumer == site.site:
                sections = _sections(site)
                yield _padded(other.seed.module.get_parameter("consumer_weight"), 0, sections * units, sections)

    def _open(self, seed_id: str) -> str:
        """A new slot at the place of a seed that was absorbed."""
        opened = f"s{len(self._slots) + 1}"
        self._root[opened] = self._root[seed_id]
        site = _copy(self._slots[seed_id].description)
        site.seed_id = opened
        self._slots[opened] = Slot(site)
        return opened

    def _describe_anew(self) -> None:
        """What each place is now, and what could grow there."""
        for seed_id, slot in self._slots.items():
            site = _copy(self._first[self._root.get(seed_id, seed_id)])
            site.seed_id = seed_id
            axis = 1 if site.shape_kind == "token" else 0
            if site.HasField("width"):
                fill_place(self._host, site.site, site.width)
                site.shape[axis] = _sections(site) * site.width.units
            else:
                site.shape[axis] = self._features(seed_id, site.shape[axis])
            if slot.absorbed:
                del site.options[:]  # what grew here is the host's; what may grow next stands at the slot that opened
            elif self._options is not None:
                del site.options[:]
                site.options.extend(self._options(site))
            slot.description = site

    def _features(self, seed_id: str, first: int) -> int:
        """The features of a depth place, which had `first` of them at the start."""
        now = first
        for absorbed, units in self._absorbed:
            root = self._first[self._root[absorbed]]
            if seed_id in root.width.between:
                now += units * first // root.width.units
        return now

    # ------------------------------------------------------------------------------------------------- going elsewhere

    def become(self, absorbed: Sequence[Sequence[Any]]) -> None:
        """Give the host's layers and the slots the structure of a saved state; the values are loaded afterwards.

        Raises CorruptState where the state has absorbed what cannot grow here.
        """
        wanted = [(str(seed_id), int(units)) for seed_id, units in absorbed]
        if wanted == self._absorbed:
            return
        for seed_id in [each for each in self._slots if each not in self._first]:
            self._slots.pop(seed_id).empty()
        self._root = {seed_id: root for seed_id, root in self._root.items() if seed_id in self._first}
        for slot in self._slots.values():
            slot.absorbed = ""
        self._absorbed = []
        for seed_id, units in wanted:
            if seed_id not in self._root or units < 1:
                raise CorruptState(f"the saved state absorbed {units} units of {seed_id}, which widens nothing here")
            self._slots[seed_id].absorbed = "absorbed"
            self._absorbed.append((seed_id, units))
            self._open(seed_id)
        for root in (each for each in self._first if each in self._root):
            self._resize(root, sum(units for seed_id, units in wanted if self._root[seed_id] == root))
        self._describe_anew()

    def _resize(self, root: str, more: int) -> None:
        place = self._first[root].width
        producer, consumer = self._layers(root)
        units = place.units + more
        for parameter in producer.parameters(recurse=False):
            _resize(parameter, 0, _sections(self._first[root]) * units)
        for name in place.norms:
            norm = self._host.get_submodule(name)
            for tensor in (*norm.parameters(recurse=False), *norm.buffers(recurse=False)):
                if tensor.dim():  # not the count of batches
                    _resize(tensor, 0, units)
            _count_units(norm, units)
        _resize(consumer.get_parameter("weight"), 1, self._inputs[root] + more * place.outgoing[1])
        _count(producer, consumer)

    def _layers(self, root: str) -> tuple[nn.Module, nn.Module]:
        site = self._first[root]
        return self._host.get_submodule(site.site), self._host.get_submodule(site.width.consumer)

    def _root_of(self, site: SiteDescription) -> str:
        return self._root[site.seed_id]


def _unsupported(settings: SeedSettings) -> str:
    """The rule of a run that a wider layer cannot follow, because its new units are no module of their own."""
    rules = {
        "host_rule is detached": settings.host_rule == "detached",
        "training_rule is straight_through": settings.training_rule == "straight_through",
        "freeze_fossils is set": settings.freeze_fossils,
    }
    found = [rule for rule, holds in rules.items() if holds]
    return f"seed setting {found[0]}, and new units of a layer learn as the layer does" if found else ""


def _place(slot: Slot) -> str:
    return f"{slot.description.site} and {slot.description.width.consumer}"


def _copy(site: SiteDescription) -> SiteDescription:
    copy = SiteDescription()
    copy.CopyFrom(site)
    return copy


def _sections(site: SiteDescription) -> int:
    return max(1, site.width.sections)


def _joined(parameter: nn.Parameter, axis: int, own: Tensor, sections: int = 1) -> Part:
    assert isinstance(own, nn.Parameter)
    _set(parameter, joined([parameter.data, own.data], axis, sections))
    return Part(parameter, axis, own.shape[axis], own, sections)


def _padded(parameter: nn.Parameter, axis: int, added: int, sections: int = 1) -> Part:
    _resize(parameter, axis, parameter.shape[axis] + added, sections)
    return Part(parameter, axis, added, sections=sections)


def _resize(tensor: Tensor, axis: int, size: int, sections: int = 1) -> None:
    """Cut off what is beyond `size` along the axis, or put zeros there, into each section its share of them."""
    now = tensor.data
    if size < now.shape[axis]:
        _set(tensor, now.narrow(axis, 0, size).clone())
    elif size > now.shape[axis]:
        shape = [*now.shape]
        shape[axis] = size - now.shape[axis]
        _set(tensor, joined([now, now.new_zeros(shape)], axis, sections))


def _set(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor data of another shape; it stays the object that others hold.

    Torch lets go of the node that collects a parameter's gradient only where the type changes, hence the detour: a node
    that a loss of the step before still holds would ask for a gradient of the old shape.
    """
    other = torch.float64 if data.dtype != torch.float64 else torch.float32
    tensor.grad = None
    tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data


def _count(*layers: Any) -> None:
    """Let the layers say what their weights are."""
    for layer in layers:
        outputs, inputs = layer.weight.shape[:2]
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = outputs, inputs
        else:
            layer.out_channels, layer.in_channels = outputs, inputs


def _count_units(norm: Any, units: int) -> None:
    if isinstance(norm, nn.GroupNorm):
        norm.num_groups = units * norm.num_groups // norm.num_channels
        norm.num_channels = units
    else:
        norm.num_features = units
