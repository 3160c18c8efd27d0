"""Compiled kernels that replace eager ones between two steps, if the configuration allows it; each swap is a fact.

The library is asked at the start of an epoch. Loading a compiled form takes about a second, once a seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import KernelSwapped
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_HALF_OPEN
from esper.errors import CorruptState
from esper.kasmina.seed import Form, Seed
from esper.tezzeret.compiled import fits_here, restore
from esper.tezzeret.results import COMPILED
from esper.tolaria.commands import drain, publish, waited
from esper.tolaria.divergence import Diverged, Divergence, Place
from esper.tolaria.kernels import wanted_at
from esper.tolaria.outside import KernelSource
from esper.tolaria.run import Run
from esper.urza.artifact import Kernel, Refusal, named


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel of the library with its compiled form, which is loaded when a seed gets it."""

    kernel: Kernel
    folder: Path

    @property
    def artifact_ref(self) -> str:
        """Of the artifact."""
        return self.kernel.artifact_ref

    def form_of(self, module: nn.Module, h: Tensor) -> Form:
        """The form for `module`; raises CompilerFailed where torch cannot load it and CorruptState for no cache."""
        return restore(self.kernel.cache, module, h, self.kernel.manifest["pipeline"], self.folder)


def swap_kernels(run: Run, forward: Callable[[], object]) -> None:
    """Replace eager forms with compiled ones where the library has one that was measured as faster; wait for the log.

    A restored seed gets its compiled form back first: its state says that it serves. `forward` runs the host once.
    Where kernels cannot take a place, the breaker `recompilation` opens, and none is tried for 30 s.
    """
    if run.config.compiled_kernels:
        publish(run, waited(run.swap_breaker))
    for seed_id, seed in run.kasmina.swappable().items():
        if seed.compiled_ref:
            _swap(run, seed_id, _again(run, seed), forward)
    for fact in run.world.swaps():
        if not swap_as_recorded(run, fact.kernel_swapped, forward):
            what = f"the kernel of {fact.kernel_swapped.seed_id} cannot be swapped as on record"
            raise Diverged(Divergence(Place.of(fact), what))
    library = run.world.library()
    if library is None or not run.config.compiled_kernels or run.device.type != "cpu":
        if run.config.compiled_kernels:
            publish(run, run.swap_breaker.poll())  # as on record: what was tried in vain then is not tried again
        return
    _swap_to_offered(run, library, forward)


def _swap_to_offered(run: Run, library: KernelSource, forward: Callable[[], object]) -> None:
    """Try each compiled kernel that the library has by now, once; the breaker counts those that could not serve."""
    swapped = False
    for seed_id, seed in run.kasmina.swappable().items():
        kernel = _offered(run, library, seed_id, seed) if run.swap_breaker.allows else None
        if kernel is None or (seed_id, kernel.artifact_ref) in run.swaps_tried:
            continue
        _swap(run, seed_id, kernel, forward)
        swapped = swapped or seed.compiled is not None
        if seed.compiled is None:
            run.swaps_tried.add((seed_id, kernel.artifact_ref))
            publish(run, run.swap_breaker.failed(f"{seed_id}: {kernel.artifact_ref}"))
    if swapped and run.swap_breaker.state == CIRCUIT_BREAKER_STATE_HALF_OPEN:
        publish(run, run.swap_breaker.succeeded())


def swap_as_recorded(run: Run, fact: KernelSwapped, forward: Callable[[], object]) -> bool:
    """Do what `swap_kernels` did when `fact` was recorded, with the object store alone; whether anything changed."""
    if fact.to_form != COMPILED:
        return _swap(run, fact.seed_id, None, forward)
    kernel = named(run.objects, fact.artifact_ref, fact.blueprint_id)
    if isinstance(kernel, Refusal):
        raise CorruptState(f"the compiled kernel of {fact.seed_id} is gone: {kernel.detail}")
    return _swap(run, fact.seed_id, CompiledKernel(kernel, compiled_folder()), forward)


def compiled_folder() -> Path:
    """The folder where torch of this process keeps compiled code."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # noqa: PLC0415 - half a second, for those who swap

    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or cache_dir())


def _swap(run: Run, seed_id: str, kernel: CompiledKernel | None, forward: Callable[[], object]) -> bool:
    """Swap the kernel of one seed; whether another form is used now. If so, the log has that."""
    facts = run.kasmina.swap(seed_id, kernel, forward)
    publish(run, facts)
    drain(run)
    if facts:
        run.world.flush()
    return bool(facts)


def _offered(run: Run, library: KernelSource, seed_id: str, seed: Seed) -> CompiledKernel | None:
    """The compiled kernel for a seed, if the library has one by now that was measured as faster and runs here."""
    found = library.take(wanted_at(run.kasmina.sites()[seed_id], seed.blueprint_id, seed.parameters))
    return _usable(found)


def _again(run: Run, seed: Seed) -> CompiledKernel | None:
    """The kernel that a restored seed had."""
    return _usable(named(run.objects, seed.compiled_ref, seed.blueprint_id))


def _usable(kernel: Kernel | Refusal | None) -> CompiledKernel | None:
    if not isinstance(kernel, Kernel) or kernel.form != COMPILED or not kernel.cache:
        return None
    return CompiledKernel(kernel, compiled_folder()) if fits_here(kernel.manifest.get("toolchain", {})) else None
