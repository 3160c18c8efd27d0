"""Copies of an archive at any address, whole at every moment, and the local mirror of one that is elsewhere.

Files are copied one by one, each compared with its checksum, the manifest last: a reader sees meanwhile what the
manifest before listed. Files that are there already are not copied again; those that the manifest no longer lists stay
ten minutes, as beside the archiver. A copy is an archive like any other, and the way to have one in an object store.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import platformdirs

from esper.errors import CorruptState, EsperError, InvalidInput
from projections import manifest
from projections.addresses import MOST_BYTES, Folder
from projections.manifest import FILES, FileEntry, Manifest
from projections.verify import Damage, damaged

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
