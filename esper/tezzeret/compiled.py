"""The compiled form of a kernel in a process that only uses it: torch's cache is filled, and everything is a hit.

This is the one place outside the forge that calls `torch.compile`, which is how torch hands out what is in its cache;
where it would have to compile after all, the kernel is refused. Kasmina has no such call (R-TEZ-21).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import _get_current_dispatch_mode

from esper.errors import CorruptState
from esper.tezzeret.bundle import unpack
from esper.tezzeret.kernel import CompilerFailed
from esper.tezzeret.pipelines import pipeline

Form = Callable[[Tensor], Tensor]


def fits_here(toolchain: Mapping[str, str]) -> bool:
    """Whether a kernel that was compiled with this toolchain runs here: machine code has one kind of machine."""
    here = {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return all(toolchain.get(name) == value for name, value in here.items())


def restore(cache: bytes, module: nn.Module, h: Tensor, pipeline_name: str, folder: Path) -> Form:
    """The compiled form of `module`, over the module's own parameters, ready for activations like `h` (B, ...).

    `folder` is where torch of this process keeps its compiled code. The form never compiles later either: what it was
    not made for runs eagerly. Raises CompilerFailed where torch does not find everything in `cache`.
    """
    before = _misses()
    try:
        torch.compiler.load_cache_artifacts(unpack(cache, folder))
        form: Form = torch.compile(module, options={"fallback_random": True, **pipeline(pipeline_name).options})
        torch._dynamo.maybe_mark_dynamic(h, 0)  # noqa: SLF001 - as the forge did, so that torch finds the same graph
        torch.autograd.grad(form(h).sum(), [h])
    except CorruptState:
        raise
    except Exception as error:  # torch may raise anything here, and each of it means the eager form
        raise CompilerFailed(f"the compiled form cannot be had: {type(error).__name__}: {error}") from error
    form_of_module: Form = module.forward
    if _misses() != before:
        raise CompilerFailed("torch would have had to compile: the kernel was made for another toolchain or activation")

    def compiled(activation: Tensor) -> Tensor:
        if _get_current_dispatch_mode() is not None:  # FLOPs are counted, which what is compiled hides
            return form_of_module(activation)
        with torch.compiler.set_stance("eager_on_recompile"):
            return form(activation)

    return compiled


def _misses() -> int:
    told: Any = counters
    return int(told["inductor"]["fxgraph_cache_miss"] + told["aot_autograd"]["autograd_cache_miss"])
