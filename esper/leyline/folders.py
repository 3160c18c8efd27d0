"""A folder held open: its files are opened, made and removed by name, relative to it, without following links.

A path is looked up anew at every use, and any part of it may be a link by then; a folder held open stays the one that
was opened. What is no plain file is refused: a link, a device, a pipe that would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from esper.errors import CorruptState
from esper.leyline.names import checked, is_name, shown

TEMPORARY: Final = ".new-"
"""How the name of a file begins that is not whole yet; nobody reads it, and `remove_broken_off` takes it away."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A folder held open until `close`. Names are checked by `names.checked`; errors name the path.

    Raises CorruptState where something is a link or no plain file, and else OSError as the system has it
    (FileNotFoundError where a name is not there).
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Self:
        """The folder at a path that a person named; `make` makes it and those above. Links in it are the person's."""
        if make:
            path.mkdir(parents=True, exist_ok=True)
        return cls(path, os.open(path, _FOLDER))

    def inside(self, name: str, *, make: bool = False) -> Self:
        """A folder in this one, made where it is not there and `make` says so."""
        path = self.path / checked(name, "the folder", self.path)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self._descriptor)
        with _named(path):
            return type(self)(path, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._descriptor))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def open_file(self, name: str) -> BinaryIO:
        """A plain file to read."""
        path = self.path / checked(name, "the file", self.path)
        with _named(path):
            descriptor = os.open(name, _READ, dir_fd=self._descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CorruptState(f"{path} is no plain file: nothing is read from it; move it away")
        return os.fdopen(descriptor, "rb")

    def read(self, name: str) -> bytes:
        """A plain file's bytes."""
        with self.open_file(name) as file:
            return file.read()

    def write(self, name: str, content: bytes | memoryview, *, sync: bool = True) -> None:
        """Make or replace a file in one step: whoever opens it sees the old content or the new one, whole and synced.

        A link of that name is replaced and not followed. Any number of processes may do so at once: the last one wins.
        Who writes many files leaves the folder's own `sync` for the last.
        """
        with self.writing(name, sync=sync) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """The same for what comes piece by piece; after an error everything is as it was."""
        checked(name, "the file", self.path)
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(temporary, _MAKE, 0o666, dir_fd=self._descriptor), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise
        if sync:
            self.sync()

    def move(self, name: str, to: Self, new: str) -> None:
        """Move a file or folder, as it is, into the folder `to` by the name `new`; a link moves itself."""
        checked(name, "the file", self.path)
        checked(new, "the file", to.path)
        os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=to._descriptor)

    def remove(self, name: str) -> bool:
        """Remove a file, or a link and not what it leads to; False where nothing of that name is there."""
        checked(name, "the file", self.path)
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return False
        return True

    def remove_folder(self, name: str) -> bool:
        """Remove a folder in this one and all in it; a link in it goes, what it leads to stays. False where none is."""
        checked(name, "the folder", self.path)
        return _remove_tree(self._descriptor, name, self.path / name)

    def remove_broken_off(self) -> None:
        """Remove files that a `write` left behind which was killed. For the only writer of a folder."""
        for name in os.listdir(self._descriptor):  # noqa: PTH208 - of the folder held
            if name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(name, dir_fd=self._descriptor)

    def files(self) -> dict[str, os.stat_result]:
        """The plain files here with a name that is one, and what the system says of each, by name."""
        return {name: found for name, found in self._listed() if stat.S_ISREG(found.st_mode)}

    def folders(self) -> list[str]:
        """The names of the folders here that are folders themselves and no links."""
        return sorted(name for name, found in self._listed() if stat.S_ISDIR(found.st_mode))

    def strangers(self) -> list[str]:
        """Everything else that lies here, as an error can show it: links, devices, and names that are none."""
        known = {*self.files(), *self.folders()}
        return sorted(shown(name) for name in os.listdir(self._descriptor) if name not in known)  # noqa: PTH208

    def sync(self) -> None:
        """Make the names in the folder durable."""
        os.fsync(self._descriptor)

    def _listed(self) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if not entry.name.startswith(TEMPORARY) and is_name(entry.name):
                        yield entry.name, entry.stat(follow_symlinks=False)


def _remove_tree(parent: int, name: str, path: Path) -> bool:
    try:
        with _named(path):
            descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(descriptor) as entries:
            held = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for each, is_folder in held:
            if is_folder:
                _remove_tree(descriptor, each, path / each)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)
    return True


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """The system's error with the whole path; one for a link says what it is and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise CorruptState(
                f"{path} is a link or no folder, where Esper makes plain files and folders only: nothing was read, "
                "written or removed through it; put what it leads to in its place"
            ) from None
        raise OSError(error.errno, error.strerror, str(path)) from None
