"""Folders at any address that fsspec knows: what is in them, read and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import fsspec

from esper.errors import EsperError, InvalidInput
from esper.leyline import folders
from esper.leyline.names import checked

MOST_BYTES: Final = 512 * 2**20
"""Of a file, whatever a manifest says of it: the largest that merging makes have some hundred megabytes."""

PIECE_BYTES: Final = 8 * 2**20
"""Of a file on its way that are in memory at once; a store of objects takes no parts below five megabytes."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder at `address`; its files are written whole or not at all."""

    address: str
    system: Any
    root: str

    @classmethod
    def at(cls, address: Path | str) -> Folder:
        """The folder at an address, which need not exist yet.

        Raises InvalidInput where no installed library knows such addresses, or a server of that name answers.
        """
        if isinstance(address, Path) or "://" not in address:  # where `::` is no sign of fsspec
            path = Path(address).expanduser().absolute()
            return cls(str(address).rstrip("/"), fsspec.filesystem("file"), str(path))
        try:
            system, root = fsspec.core.url_to_fs(str(address))
        except (ValueError, ImportError) as error:
            raise InvalidInput(f"{address}: {error}; install what fsspec needs for it, or name a folder") from None
        except Exception as error:  # noqa: BLE001 - some libraries connect here, and each fails in its own way
            raise InvalidInput(f"{address} does not answer: {type(error).__name__}: {_line(error)}") from None
        return cls(str(address).rstrip("/"), system, root.rstrip("/"))

    @property
    def local(self) -> Path | None:
        """The folder's path, where it is on this machine."""
        return Path(self.root) if "file" in _protocols(self.system) else None

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """A file's bytes; FileNotFoundError, or another OSError where it cannot be read or has more than `most`."""
        return b"".join(self.pieces(name, most))

    def pieces(self, name: str, most: int = MOST_BYTES) -> Iterator[bytes]:
        """The same, at most `PIECE_BYTES` at a time."""
        taken = 0
        with _as_os_error(self, name):
            for piece in self._pieces(name, most):
                taken += len(piece)
                if taken > most:
                    raise OSError(errno.EFBIG, f"it has more than the {most} bytes that may be read of it")
                yield piece

    def _pieces(self, name: str, most: int) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            if self.local is not None:
                folder, last = stack.enter_context(self._holding(name))
                file: Any = stack.enter_context(folder.open_file(last))
            elif _STREAMED.isdisjoint(_protocols(self.system)):
                yield from self._ranges(f"{self.root}/{_checked(name, self.address)}", most)
                return
            else:  # a size, whichever, spares the question for it
                path = f"{self.root}/{_checked(name, self.address)}"
                file = stack.enter_context(self.system.open(path, "rb", block_size=0, size=1))
            while piece := file.read(PIECE_BYTES):
                yield piece

    def _ranges(self, path: str, most: int) -> Iterator[bytes]:
        """A file by its ranges; none begins at its end, for which stores have an error."""
        at = 0
        while at <= most:
            end = at + PIECE_BYTES if at + PIECE_BYTES < most else most + 1
            try:
                piece: bytes = self.system.cat_file(path, start=at, end=end)
            except Exception:
                if at and self.system.size(path) == at:  # shorter than it ought to be
                    return
                raise
            yield piece
            if len(piece) < end - at:
                return
            at = end

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file in one step. Raises OSError where that is not possible."""
        with self.writing(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """The same for what comes piece by piece; after an error everything is as it was."""
        with _as_os_error(self, name):
            if self.local is not None:
                with self._holding(name, make=True) as (folder, last), folder.writing(last) as file:
                    yield file
                return
            path = f"{self.root}/{_checked(name, self.address)}"
            with tempfile.SpooledTemporaryFile(PIECE_BYTES) as spooled:
                yield spooled
                try:  # a store of objects shows one when it is complete
                    self._put(path, spooled)
                except FileNotFoundError:
                    self._make_folder(path.rpartition("/")[0])
                    self._put(path, spooled)

    def _put(self, path: str, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size <= PIECE_BYTES:
            self.system.pipe_file(path, file.read())
            return
        with self.system.open(path, "wb", block_size=PIECE_BYTES) as there:
            shutil.copyfileobj(file, there, PIECE_BYTES)

    @contextlib.contextmanager
    def _holding(self, name: str, *, make: bool = False) -> Iterator[tuple[folders.Folder, str]]:
        """The folder on this machine that a file is in, held open, and the file's own name; no link is followed."""
        *above, last = name.split("/")
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(folders.Folder.open(Path(self.root), make=make))
            for part in above:
                folder = stack.enter_context(folder.inside(part, make=make))
            yield folder, last

    def _make_folder(self, path: str) -> None:
        """A folder and those above it, but no bucket: a name misspelt would become one, and somebody's bill.

        Raises FileNotFoundError where there is no bucket of that name.
        """
        above = path.rpartition("/")[0]
        if above and not self.system.exists(above):
            self._make_folder(above)
        if not path.startswith("/") and "/" not in path:
            raise FileNotFoundError(f"{self.address}: there is no bucket '{path}'; make it first")
        with contextlib.suppress(FileExistsError):
            self.system.mkdir(path, create_parents=False)

    def has(self, name: str) -> bool:
        """Whether there is such a file. Raises OSError where that cannot be said."""
        with _as_os_error(self, name):
            if self.local is not None:
                return (self.local / _checked(name, self.address)).is_file()
            return bool(self.system.exists(f"{self.root}/{_checked(name, self.address)}"))

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder inside this one and their sizes; none where it does not exist."""
        with _as_os_error(self, folder):
            try:
                if self.local is not None:
                    with self._holding(f"{folder}/any") as (held, _):
                        return {name: found.st_size for name, found in held.files().items()}
                listed = self.system.ls(f"{self.root}/{folder}", detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        return {os.path.basename(each["name"]): each["size"] for each in listed if each["type"] == "file"}  # noqa: PTH119

    def strangers(self, folder: str) -> list[str]:
        """What else lies in a folder on this machine: folders, links, and names that are none."""
        if self.local is None:
            return []
        with contextlib.suppress(FileNotFoundError), self._holding(f"{folder}/any") as (held, _):
            return sorted([*held.strangers(), *held.folders()])
        return []

    def remove(self, name: str) -> None:
        """Delete a file, which may have gone already."""
        with contextlib.suppress(FileNotFoundError), _as_os_error(self, name):
            if self.local is not None:
                with self._holding(name) as (folder, last):
                    folder.remove(last)
            else:
                self.system.rm_file(f"{self.root}/{_checked(name, self.address)}")


_STREAMED: Final = frozenset({"http", "https"})
"""Of these a server need not know ranges, and gives the whole file where it does not: it is read as it comes."""


def _checked(name: str, address: str) -> str:
    for part in name.split("/"):
        checked(part, "the file", address)
    return name


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextlib.contextmanager
def _as_os_error(folder: Folder, name: str) -> Any:
    """Every library behind fsspec has errors of its own: as OSError, in one line, with the address."""
    try:
        yield
    except (OSError, EsperError):
        raise
    except Exception as error:
        raise OSError(f"{folder.address}/{name}: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
