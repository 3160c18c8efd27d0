"""Archives elsewhere: a folder at any address that fsspec knows, and copies of an archive, whole at every moment.

Files are copied one by one, each compared with its checksum, the manifest last: a reader sees meanwhile what the
manifest before listed. Files that are there already are not copied again; those that the manifest no longer lists stay
ten minutes, as beside the archiver. A copy is an archive like any other, and the way to have one in an object store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import fsspec
import platformdirs

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline import folders
from esper.leyline.names import checked
from projections import manifest
from projections.manifest import FILES, FileEntry, Manifest
from projections.verify import Damage, damaged

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


KEEP_REPLACED_S: Final = 600.0

AT_ONCE: Final = 4
"""Files on their way at once: a store answers late and takes several."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a transfer did: files and bytes that were copied, how many were there already, and what is damaged."""

    manifest: Manifest
    copied: int
    size: int
    kept: int
    removed: int
    damage: tuple[Damage, ...]


def manifest_at(folder: Folder) -> Manifest:
    """The manifest in a folder, an empty one where there is none. Raises OSError, or CorruptState for a damaged one."""
    try:
        return manifest.parse(folder.read(manifest.NAME, manifest.MOST_BYTES), f"{folder.address}/{manifest.NAME}")
    except FileNotFoundError:
        return Manifest()


def transfer(
    source: Folder,
    target: Folder,
    now_s: float,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    *,
    trust: bool = False,
) -> Transferred:
    """Make the folder `target` a copy of the archive in `source`, or bring one up to date.

    `progress` is told the bytes done and the bytes to do. Files that are there are compared by their checksum, with
    `trust` only those that changed since they were last compared. A file whose bytes are not those that were written
    is not copied; the copy's manifest lists it all the same, so that it is missed there too. Raises InvalidInput where
    `target` holds another archive, or one that is ahead, and OSError where it cannot be read or written.
    """
    newest, before = manifest_at(source), manifest_at(target)
    _refuse_another(target, newest, before)
    there = target.sizes(FILES)
    wanted = [entry for entry in newest.files if there.get(entry.name) != entry.size]
    if target.local is not None:  # a copy of the right size may be damaged; far away, `verify --archive` reads it
        right_size = [entry for entry in newest.files if there.get(entry.name) == entry.size]
        wanted += _changed(target.local, right_size, trust=trust)
    total, done = sum(entry.size for entry in wanted), 0
    damage: list[Damage] = []
    for entry, problem in _several_at_once(lambda each: _copy(source, target, each), wanted):
        if problem is not None:
            damage.append(Damage(f"{source.address}/{FILES}/{entry.name}", entry.table, entry.rows, problem))
        done += entry.size
        progress(done, total)
    retired, due = _retired(newest, before, there, now_s)
    if newest.generation != before.generation or retired != before.retired:
        target.write(manifest.NAME, manifest.as_bytes(replace(newest, retired=retired)))
    for name in due:
        target.remove(f"{FILES}/{name}")
    copied = len(wanted) - len(damage)
    return Transferred(newest, copied, total, len(newest.files) - len(wanted), len(due), tuple(damage))


def _changed(target: Path, entries: Sequence[FileEntry], *, trust: bool) -> list[FileEntry]:
    wrong = {each.name for each in damaged(target, entries, trust_cache=trust)}
    return [entry for entry in entries if entry.name in wrong]


def _refuse_another(target: Folder, newest: Manifest, before: Manifest) -> None:
    if before.files and before.archive_id != newest.archive_id:
        raise InvalidInput(f"{target.address} holds another archive: name an empty place, or that archive's own copy")
    if before.generation > newest.generation:
        raise InvalidInput(
            f"{target.address} is ahead of the archive that is to be copied there (generation {before.generation}, "
            f"not {newest.generation}): copy the other way round"
        )
    for place, end in before.next_offsets.items():
        if end > newest.next_offsets.get(place, 0):
            raise InvalidInput(
                f"{target.address} holds {place[0]}/{place[1]} up to offset {end} and the archive that is to be copied "
                f"there up to {newest.next_offsets.get(place, 0)}: that one has lost records, so nothing is copied; "
                "copy the other way round, to an empty place, and use that"
            )


def damaged_at(source: Folder, entries: Sequence[FileEntry], progress: Callable[[int], None]) -> list[Damage]:
    """The files in a folder, near or far, whose bytes are not those that were written; every byte is read.

    Raises OSError where a store does not answer.
    """
    found: list[Damage] = []
    for entry, problem in _several_at_once(lambda each: _problem(source, each), entries):
        if problem is not None:
            found.append(Damage(f"{source.address}/{FILES}/{entry.name}", entry.table, entry.rows, problem))
        progress(entry.size)
    return found


def _several_at_once(
    look: Callable[[FileEntry], str | None], entries: Sequence[FileEntry]
) -> Iterator[tuple[FileEntry, str | None]]:
    """Each file with what `look` says of it, in order, `AT_ONCE` at a time.

    After the first error no other file is begun: the one who waits for the answers may be slower than those who ask,
    and a store that is away would be asked for each of them meanwhile.
    """
    failed = threading.Event()

    def unless_failed(entry: FileEntry) -> str | None:
        if failed.is_set():
            return None  # of no account: the error is raised
        try:
            return look(entry)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        yield from zip(entries, pool.map(unless_failed, entries), strict=True)


class _Unsound(EsperError):
    """A file's bytes are not those that were written."""


def _take(source: Folder, entry: FileEntry, write: Callable[[bytes], object]) -> None:
    """Hand on a file's bytes, piece by piece, and raise _Unsound with what is wrong with them in the end.

    Raises OSError where a store does not answer: that says nothing of its files, and each would be waited for in vain.
    """
    digest = hashlib.sha256()
    pieces = source.pieces(f"{FILES}/{entry.name}", min(entry.size, MOST_BYTES))
    while piece := _next(source, pieces):
        digest.update(piece)
        write(piece)
    if digest.hexdigest() != entry.sha256:
        raise _Unsound("its bytes do not match their checksum")


def _next(source: Folder, pieces: Iterator[bytes]) -> bytes:
    """The next piece, none at the end; apart from what becomes of it, whose errors are not the source's."""
    try:
        return next(pieces, b"")
    except CorruptState as error:
        raise _Unsound(str(error)) from error
    except OSError as error:
        larger = error.errno == errno.EFBIG
        if source.local is None and not larger and not isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _Unsound(f"cannot be read ({error.strerror or error})") from error


def _copy(source: Folder, target: Folder, entry: FileEntry) -> str | None:
    """Copy one file, or what is wrong with it."""
    try:
        with target.writing(f"{FILES}/{entry.name}") as file:
            _take(source, entry, file.write)
    except _Unsound as error:
        return str(error)
    return None


def _problem(source: Folder, entry: FileEntry) -> str | None:
    try:
        _take(source, entry, len)
    except _Unsound as error:
        return str(error)
    return None


def _retired(
    newest: Manifest, before: Manifest, there: dict[str, int], now_s: float
) -> tuple[dict[str, float], list[str]]:
    """Files of the copy that nothing lists any more: those that stay until when, and those whose time has come.

    A file that no manifest of either side has listed is not ours to delete.
    """
    listed = {entry.name for entry in newest.files}
    ours = {entry.name for entry in before.files} | set(before.retired) | set(newest.retired)
    left = [name for name in there if name in ours and name not in listed]
    retired = {name: before.retired.get(name, now_s + KEEP_REPLACED_S) for name in left}
    due = [name for name, at_s in retired.items() if at_s <= now_s]
    return {name: at_s for name, at_s in retired.items() if at_s > now_s}, due


class Mirror:
    """An archive at an address, kept as a copy on this machine so that DuckDB reads it at the disk's speed.

    Every byte has to be read once to be compared with its checksum, so reading only parts of files over the network
    would save nothing; and what was copied is there the next time. `progress` is as for `transfer`.
    """

    def __init__(
        self, address: str, now_s: Callable[[], float], progress: Callable[[int, int], None] = lambda _done, _of: None
    ) -> None:
        self.source = Folder.at(address)
        name = hashlib.sha256(self.source.address.encode()).hexdigest()[:16]
        self.folder = Path(platformdirs.user_cache_dir("esper")) / "archives" / name
        self._now_s = now_s
        self._progress = progress
        self._generation = -1
        self._damage: tuple[Damage, ...] = ()

    def refresh(self) -> tuple[Damage, ...]:
        """Copy what is new, and say which files are damaged at the address.

        Raises InvalidInput where the address does not answer or holds no archive.
        """
        try:
            newest = manifest_at(self.source)
            if newest.generation == 0:
                raise InvalidInput(f"{self.source.address} holds no archive: there is no {manifest.NAME}")
            if newest.generation != self._generation:
                done = transfer(self.source, Folder.at(self.folder), self._now_s(), self._progress, trust=True)
                self._generation, self._damage = done.manifest.generation, done.damage
        except OSError as error:
            raise InvalidInput(f"the archive at {self.source.address} cannot be read: {error}") from None
        return self._damage
