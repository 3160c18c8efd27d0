"""Where an archive lies: a local folder, or whatever fsspec can reach by its address (`s3://...`, `memory://...`)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from esper.errors import InvalidInput
from projections import files


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

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError, or another OSError where it cannot be read."""
        with _as_os_error(self, name):
            content: bytes = self.system.cat_file(f"{self.root}/{name}")
            return content

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file in one step. Raises OSError where that is not possible."""
        path = f"{self.root}/{name}"
        with _as_os_error(self, name):
            if self.local is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                files.replace(Path(path), content)
            else:  # a store of objects shows one when it is complete
                try:
                    self.system.pipe_file(path, content)
                except FileNotFoundError:
                    self._make_folder(path.rpartition("/")[0])
                    self.system.pipe_file(path, content)

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

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder inside this one and their sizes; none where it does not exist."""
        with _as_os_error(self, folder):
            try:
                listed = self.system.ls(f"{self.root}/{folder}", detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        return {os.path.basename(each["name"]): each["size"] for each in listed if each["type"] == "file"}  # noqa: PTH119

    def remove(self, name: str) -> None:
        """Delete a file, which may have gone already."""
        with contextlib.suppress(FileNotFoundError), _as_os_error(self, name):
            self.system.rm_file(f"{self.root}/{name}")


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextlib.contextmanager
def _as_os_error(folder: Folder, name: str) -> Any:
    """Every library behind fsspec has errors of its own: as OSError, in one line, with the address."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{folder.address}/{name}: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
