"""What a compiled kernel needs to run in another process without a compiler: torch's cache and the libraries it names.

torch keeps its own cache of graphs (`torch.compiler.save_cache_artifacts`) but not the shared libraries that the C++
compiler made of them; without those the cache is a hit and the compiler runs all the same (measured: 15 s of g++). So
both go into one archive (ZIP, https://docs.python.org/3/library/zipfile.html, uncompressed).

Both are code: torch unpickles its cache, and a library is loaded as it is. Unpack only what a signed event vouches for.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Final

from esper.errors import CorruptState

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
