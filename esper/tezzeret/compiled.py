"""A compiled kernel outside the forge: its compiler cache as one archive, and the compiled form restored from it.

torch keeps its own cache of graphs (`torch.compiler.save_cache_artifacts`) but not the shared libraries that the C++
compiler made of them; without those the cache is a hit and the compiler runs all the same (measured: 15 s of g++). So
both go into one archive (ZIP, https://docs.python.org/3/library/zipfile.html, uncompressed). Both are code: torch
unpickles its cache, and a library is loaded as it is. Unpack only what a signed event names.

`restore` is the one place outside the forge that calls `torch.compile`, which is how torch hands out what is in its
cache; where it would have to compile after all, the kernel is refused. Kasmina has no such call (R-TEZ-21).
"""

from __future__ import annotations

import io
import platform
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import _get_current_dispatch_mode

from esper.errors import CorruptState
from esper.tezzeret.kernel import CompilerFailed
from esper.tezzeret.pipelines import pipeline

CACHE: Final = "torch-cache"
_LIBRARY: Final = re.compile(r"native/([a-z0-9]{2}/[a-z0-9]+(?:\.main)?\.so)")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
MAX_BYTES: Final = 100 * 10**6


def pack(torch_cache: bytes, folder: Path) -> bytes:
    """The archive of torch's cache and of the libraries in its `folder`; the same files give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo(CACHE, _EPOCH), torch_cache)
        for library in sorted(folder.glob("*/*.so")):
            name = f"native/{library.relative_to(folder).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), library.read_bytes())
    return content.getvalue()


def unpack(content: bytes, folder: Path) -> bytes:
    """Torch's cache; the libraries are put where it looks for them, those that are there already stay.

    Raises CorruptState for what `pack` did not make.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise CorruptState(f"a compiler cache of more than {MAX_BYTES} bytes")
            for name in archive.namelist():
                if name != CACHE:
                    _put(archive, name, folder)
            return archive.read(CACHE)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise CorruptState(f"this is no compiler cache: {error}") from None


def _put(archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    match = _LIBRARY.fullmatch(name)
    if match is None:
        raise CorruptState(f"a compiler cache does not hold {name!r}")
    path = folder / match[1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(archive.read(name))
        temporary.replace(path)


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
