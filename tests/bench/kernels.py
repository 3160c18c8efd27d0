"""A kernel of the library attached to a seed: `python -m tests.bench kernels`, about a minute.

Fixture: every safe template at each shape kind that it serves, as an artifact in an object store and in the trainer's
memory. Fetch and attach is all that a germinate command does between two steps: the kernel from memory with its
checksum and guard verified, the module built and held against the guard, the digest of its weights, the two facts. The
run is one of `digits` with a library that has what its sites offer. Limits: 10 ms p50 (architecture), 95 % hits
(R-URZA-9).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    BLEND_MODE_CONVEX,
    COMMAND_TYPE_SEED,
    SEED_OPERATION_GERMINATE,
    AdaptationCommand,
    CommandSeedOperation,
    KernelArtifactReady,
)
from esper.karn import catalogue
from esper.karn.table import find
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog
from esper.tezzeret import kernel, results
from esper.tezzeret.jobs import job_id_of
from esper.tezzeret.results import Order
from esper.tolaria.config import RunConfig
from esper.tolaria.kernels import LibraryKernels, wanted_at
from esper.tolaria.outside import Outside
from esper.tolaria.tasks import load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from esper.urza.artifact import Kernel, Refusal
from esper.urza.cache import KernelCache
from esper.urza.library import Wanted
from esper.urza.requests import KernelRequests
from tests.bench.table import Row

SHAPES = {"vector": (64,), "image": (16, 8, 8), "token": (32, 64)}
QUICK, FULL = 6, 30


class Library:
    """A trainer's prefetched kernels: artifacts in `folder`, made as the forge makes them but for the measuring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = ObjectStore(folder / "objects")
        self.kernels = KernelCache(self.objects, time.monotonic)
        self.requests = KernelRequests(self.kernels, time.monotonic)
        self.hits = self.asked = 0

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Have them made, answered and read."""
        self.requests.add(wanted)
        for number, each in enumerate(self.requests.due()):
            self.requests.asked(each, str(number))
            expected = self.requests.ready(self.store(each, str(number)))
            assert expected is not None
            self.requests.read(expected, self.kernels.fetch(expected).kernel)

    def take(self, wanted: Wanted) -> Kernel | Refusal | None:
        """From memory, counted."""
        found = self.requests.kernel(wanted)
        self.asked += 1
        self.hits += isinstance(found, Kernel)
        return found

    def store(self, wanted: Wanted, request_id: str) -> KernelArtifactReady:
        """An artifact, and the answer that names it."""
        place, pipeline = wanted.place, "emergency"
        job_id = job_id_of(wanted.blueprint_id, place.shape_kind, place.shape, place.settings, pipeline)
        what = (wanted.blueprint_id, place.shape_kind, place.shape, place.settings)
        order = Order(job_id, *what, pipeline, pipeline, 1, 2**31, approved=False)
        module = kernel.make(order)
        (self.folder / results.WEIGHTS_FILE).write_bytes(kernel.weights_of(module))
        guard = kernel.guard_of(module, place.shape)
        digest = results.guard_digest(guard)
        times = (results.Prewarm(64, 0.0, 0.0, 0),)
        figures = (0.0, 0.0, 0.0, 0.0)
        report = results.Report(
            *(job_id, *what, pipeline, 1, results.EAGER, False, "", guard, digest, *figures, times, {})
        )
        stored = results.store(self.objects, self.folder, report)
        return KernelArtifactReady(
            request_id=request_id,
            blueprint_id=wanted.blueprint_id,
            artifact_ref=stored.ref,
            checksum=stored.checksum,
            guard_digest=digest,
        )


def places() -> Iterable[tuple[str, SiteDescription]]:
    """Every safe template at each shape that it serves."""
    for blueprint_id in catalogue.SAFE_POOL:
        for kind in find(blueprint_id).kinds:
            yield (
                blueprint_id,
                SiteDescription(
                    site="0",
                    seed_id="s1",
                    shape_kind=kind,
                    shape=SHAPES[kind],
                    blend_mode=BLEND_MODE_CONVEX,
                    options=[BlueprintOption(blueprint_id=blueprint_id)],
                ),
            )


def attach(library: Library, blueprint_id: str, site: SiteDescription) -> float:
    """Milliseconds of one germinate command."""
    kasmina = Kasmina(
        nn.Sequential(nn.Identity()),
        [site],
        SeedSettings(),
        catalogue.build,
        steps_per_epoch=1,
        seed=0,
        monotonic=time.monotonic,
        kernels=LibraryKernels(library),
    )
    operation = CommandSeedOperation(operation=SEED_OPERATION_GERMINATE, blueprint_id=blueprint_id)
    command = AdaptationCommand(command_type=COMMAND_TYPE_SEED, target_seed_id="s1", seed_operation=operation)
    began = time.perf_counter()
    _, attached = kasmina.apply(command)
    took_ms = 1e3 * (time.perf_counter() - began)
    assert attached.artifact_ref
    return took_ms


def attach_rows(folder: Path, repeats: int) -> list[Row]:
    """Fetch and attach over the whole safe tier."""
    library = Library(folder)
    found = list(places())
    library.want([wanted_at(site, blueprint_id, {}) for blueprint_id, site in found])
    medians: dict[str, float] = {}
    warm: list[float] = []
    for blueprint_id, site in found:
        samples = [attach(library, blueprint_id, site) for _ in range(repeats)]
        medians[f"{blueprint_id} {site.shape_kind}"] = statistics.median(samples)
        warm += samples
    warm.sort()
    slowest = max(medians, key=medians.__getitem__)
    fixture = f"{len(found)} kernels of the safe tier, {repeats} times each, from memory and verified"
    return [
        Row("fetch and attach a cached kernel, p50", warm[len(warm) // 2], "ms", fixture, 10.0),
        Row("... p99", warm[len(warm) * 99 // 100], "ms", fixture),
        Row("... p50 of the slowest template", medians[slowest], "ms", slowest),
    ]


def run_row(folder: Path) -> Row:
    """The share of germinations that a run's prefetched library served."""
    library = Library(folder)
    task = load_task("digits")
    log = MemoryLog(objects=library.objects)
    config = RunConfig(task="digits", decision_timeout_s=None, policy="random")
    outside = Outside(log, REAL_CLOCK, library.objects, library=library)
    train(config, task, LiveWorld(outside), run_id="run")
    attached = [body for body in log.bodies("kernel_attached") if body.artifact_ref]
    assert len(attached) == library.hits
    fixture = f"{library.asked} germinations in a run of digits, random policy, everything offered is stored"
    return Row("hit rate on a run", 100 * library.hits / library.asked, "%", fixture, 95.0, at_least=True)


def rows(*, full: bool = False) -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        return [*attach_rows(Path(one), FULL if full else QUICK), run_row(Path(other))]
