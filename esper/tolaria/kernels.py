"""Kernels for Kasmina's seeds: which kernel the library has for a site and settings, and which a run may need.

A run may need every option of every site at default settings. They are requested when it starts, in the order in which
a policy is likely to choose them, so that the forge compiles the likeliest first (R-TEZ-1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from contracts.leyline.v1.event_pb2 import KernelAttached, SiteDescription
from esper.errors import CorruptState, InvalidInput
from esper.karn.table import find
from esper.kasmina.kernels import Kernels, Unusable, Verified
from esper.leyline.objects import ObjectStore
from esper.tamiyo.policies.merit import merits
from esper.tolaria.outside import KernelSource
from esper.urza.artifact import Kernel, Refusal, named
from esper.urza.library import Wanted
from esper.urza.version import Place

if TYPE_CHECKING:
    from esper.tolaria.world import World


class LibraryKernels:
    """The kernels of `source`, the trainer's part of the library."""

    def __init__(self, source: KernelSource) -> None:
        self._source = source

    def find(
        self, blueprint_id: str, site: SiteDescription, parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """The kernel of a blueprint for a site and settings; None where there is none, or cannot be any."""
        if site.HasField("width"):
            return None  # a wider layer is the host's own: there is nothing to compile
        try:
            wanted = wanted_at(site, blueprint_id, parameters)
        except InvalidInput:
            return None  # building the module says what is wrong with the settings
        found = self._source.take(wanted)
        if isinstance(found, Refusal):
            return Unusable(found.reason, found.detail)
        return _verified(found) if found is not None else None


class WorldKernels:
    """Kernels as the run's `world` gives them, which may ask `library`."""

    def __init__(self, world: World, library: Kernels) -> None:
        self._world = world
        self._library = library

    def find(
        self, blueprint_id: str, site: SiteDescription, parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """The kernel that a seed at this site germinates with."""
        return self._world.kernel(site.seed_id, partial(self._library.find, blueprint_id, site, parameters))


def wanted_at(site: SiteDescription, blueprint_id: str, parameters: Mapping[str, float]) -> Wanted:
    """The kernel that a command means; raises InvalidInput for a blueprint or setting that does not exist."""
    settings = find(blueprint_id).resolve(parameters)
    return Wanted(blueprint_id, Place.of(site.shape_kind, site.shape, settings))


def likely(sites: Iterable[SiteDescription]) -> list[Wanted]:
    """Every kernel that the sites offer, once, the likeliest choice first: by the heuristic's merit, then by cost."""
    places = [site for site in sites if not site.HasField("width")]
    found = [(merit.score, site, blueprint_id) for site in places for blueprint_id, merit in merits(site).items()]
    ordered = sorted(found, key=lambda each: -each[0])
    return list(dict.fromkeys(wanted_at(site, blueprint_id, {}) for _, site, blueprint_id in ordered))


def recalled(objects: ObjectStore, fact: KernelAttached) -> Verified | Unusable | None:
    """What `find` returned when `fact` was recorded, from the fact and the object store alone.

    The reference is the artifact's SHA-256 and vouches for all of it. Raises CorruptState where it cannot be read.
    """
    if fact.form == "identity":
        reason, _, detail = fact.trouble.partition(": ")
        return Unusable(reason, detail)
    if not fact.artifact_ref:
        return None
    kernel = named(objects, fact.artifact_ref, fact.blueprint_id)
    if isinstance(kernel, Refusal):
        raise CorruptState(f"kernel {fact.artifact_ref} of {fact.seed_id}: {kernel.detail}")
    return _verified(kernel)


def _verified(kernel: Kernel) -> Verified:
    return Verified(kernel.artifact_ref, kernel.manifest["guard"])
