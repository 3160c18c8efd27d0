"""The child that compiles one kernel and ends: `python -m esper.tezzeret.child FOLDER PARENT_PID`.

It reads `order.json` in its folder and leaves there `ready` once torch is loaded, the weights, perhaps a compiler
cache, and `report.json` as the last, or `failure.json`. The forge ends it when its time is over; its own memory limit
is the kernel's (RLIMIT_DATA), and it dies with its parent. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.errors import InvalidInput
from esper.tezzeret.pipelines import EMERGENCY, pipeline
from esper.tezzeret.results import (
    CACHE_FILE,
    COMPILED,
    EAGER,
    READY_FILE,
    REFUSED,
    REPORT_FILE,
    WEIGHTS_FILE,
    Failure,
    Order,
    Report,
    read_order,
    write_failure,
    write_whole,
)
from esper.urza.artifact import check_size, guard_digest

if TYPE_CHECKING:
    from esper.karn.layers import SeedModule
    from esper.tezzeret.kernel import Compiled

PR_SET_PDEATHSIG: Final = 1
NICENESS: Final = 10
"""A kernel can wait; the training beside it should not."""
OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""What torch's allocator says inside a RuntimeError."""


def main(folder: Path, parent_pid: int) -> int:
    """Carry out the order in `folder`; the exit code is 0 where a report is there, else 1."""
    _die_with(parent_pid)
    order = read_order(folder)
    _limit_memory(order.memory_bytes)
    os.nice(NICENESS)
    try:
        _compile(order, folder, time.perf_counter, time.process_time)
    except InvalidInput as error:
        write_failure(folder, Failure(REFUSED, str(error)))
    except MemoryError:
        write_failure(folder, _out_of_memory(order))
    except Exception as error:  # noqa: BLE001 - a template may raise anything; the forge must hear what
        said = str(error)
        memory = any(sign in said for sign in OUT_OF_MEMORY)
        failure = _out_of_memory(order) if memory else Failure("error", f"{type(error).__name__}: {said}")
        write_failure(folder, failure)
    else:
        return 0
    return 1


def _compile(order: Order, folder: Path, clock: Callable[[], float], busy: Callable[[], float]) -> None:
    """Everything that needs torch: it is imported under the memory limit.

    `clock` times the compiling and `busy`, this process's time on the processor, the passes: it has one thread, so that
    is what a pass costs, whatever else the machine does meanwhile. By the clock, with nine waiting for two cores, one
    layer norm seemed to gain 9.8 times by compiling; in processor time it gains 4.9 times.
    """
    from esper.tezzeret import kernel  # noqa: PLC0415

    (folder / READY_FILE).touch()  # from here on the time of the pipeline counts
    module = kernel.make(order)
    weights = kernel.weights_of(module)
    check_size(len(weights))
    write_whole(folder / WEIGHTS_FILE, weights)
    guard = kernel.guard_of(module, order.shape)
    warm = eager = kernel.prewarm(_copy(module), order.shape, busy)
    compiled, reason = _try_to_compile(order, module, clock)
    compiled_us = 0.0
    form = EAGER
    if compiled is not None:
        fast = kernel.prewarm(compiled.form, order.shape, busy)
        compiled_us = fast[-1].p50_ms * 1000
        if fast[-1].p50_ms < eager[-1].p50_ms:
            form, warm = COMPILED, fast
            from esper.tezzeret.compiled import pack  # noqa: PLC0415 - it loads torch._dynamo

            write_whole(folder / CACHE_FILE, pack(compiled.cache, folder / "inductor"))
        else:
            reason = f"eager is faster: {eager[-1].p50_ms * 1000:.0f} against {compiled_us:.0f} µs"
    report = Report(
        job_id=order.job_id,
        blueprint_id=order.blueprint_id,
        shape_kind=order.shape_kind,
        shape=order.shape,
        parameters=order.parameters,
        pipeline=order.pipeline,
        attempt=order.attempt,
        form=form,
        eager_fallback=compiled is None and order.requested != EMERGENCY.name,
        reason=reason,
        guard=guard,
        guard_digest=guard_digest(guard),
        eager_us=eager[-1].p50_ms * 1000,
        compiled_us=compiled_us,
        compile_ms=compiled.compile_ms if compiled is not None else 0.0,
        max_difference=compiled.max_difference if compiled is not None else 0.0,
        prewarm=warm,
        toolchain=_toolchain(),
    )
    write_whole(folder / REPORT_FILE, dumps(asdict(report)).encode())


def _try_to_compile(order: Order, module: SeedModule, clock: Callable[[], float]) -> tuple[Compiled | None, str]:
    """The compiled form, or why there is none."""
    from esper.tezzeret import kernel  # noqa: PLC0415

    chosen = pipeline(order.pipeline)
    if not chosen.compiles:
        return None, f"the {chosen.name} pipeline does not compile"
    try:
        return kernel.compile_form(module, order.shape, chosen, clock), ""
    except kernel.CompilerFailed as error:
        return None, str(error)


def _copy(module: SeedModule) -> SeedModule:
    """Measuring moves running statistics and gradients; the module itself stays as it was drawn."""
    import copy  # noqa: PLC0415

    return copy.deepcopy(module)


def _toolchain() -> dict[str, str]:
    import torch  # noqa: PLC0415

    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def _out_of_memory(order: Order) -> Failure:
    return Failure("memory", f"it needs more than its {order.memory_bytes / 2**20:.0f} MB")


def _limit_memory(limit_bytes: int) -> None:
    """Writable private memory, not address space: a CUDA build of torch maps far more than it ever uses."""
    outer = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit_bytes if outer == resource.RLIM_INFINITY else min(limit_bytes, outer)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with(parent_pid: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before prctl; then no signal will ever come
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
