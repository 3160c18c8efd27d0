"""Large bytes by their SHA-256: weights, checkpoints, artifacts and long observations. Events carry `sha256:<hex>`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import zstandard

from esper.errors import CorruptState, EsperError, InvalidInput
from esper.leyline.folders import Folder

MOST_BYTES: Final = 16 * 2**30
"""No object is larger, whatever its file says."""
UNPACKED_RATIO: Final = 100
"""Weights hardly pack at all, and even a fresh optimiser's zeros are beside them."""
UNPACKED_BYTES: Final = 64 * 2**20
"""What packs better than that is read up to so much."""
_LEVEL: Final = 3
PACKED: Final = ".zst"
"""How the name of a compressed object's file ends."""
_FRAME_HEADER_BYTES: Final = 18  # the longest that a Zstandard frame can have


class ObjectStore:
    """A folder of immutable objects, `objects/ab/cdef…` (`.zst` where compressed); safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """Where its objects are, for people."""
        return str(self.root)

    @property
    def is_there(self) -> bool:
        """Whether it may hold any object: an archive that was copied alone has none beside it."""
        return self.root.is_dir()

    def put(self, content: bytes, *, compress: bool = False) -> str:
        """Store `content` and return its reference; durable (file and folder synced) when this returns.

        The reference is of `content` as given, whether it is kept compressed or not. An object that is there already is
        read, and replaced where it is damaged.
        """
        digest = hashlib.sha256(content).hexdigest()
        self._store(digest, content, compress=compress)
        return f"sha256:{digest}"

    def _store(self, digest: str, content: bytes, *, compress: bool) -> None:
        name = self._find(digest)
        if name is None or not self._holds(digest, name, content):
            with Folder.open(self.root, make=True) as root:
                new = not (self.root / digest[:2]).exists()
                with root.inside(digest[:2], make=True) as folder, _meanwhile(root.sync if new else None):
                    if name is None:
                        name = digest[2:] + PACKED * compress
                    packed = name.endswith(PACKED)
                    folder.write(name, zstandard.ZstdCompressor(level=_LEVEL).compress(content) if packed else content)

    def _holds(self, digest: str, name: str, content: bytes) -> bool:
        """Whether the file of an object has these very bytes."""
        try:
            stored = self._read(digest, name)
            return (_inflated(stored, digest) if name.endswith(PACKED) else stored) == content
        except (OSError, EsperError):
            return False

    def get(self, reference: str, most: int = MOST_BYTES) -> bytes:
        """The bytes behind `reference`; raises InvalidInput where they are missing, CorruptState where they changed.

        CorruptState also where they are more than `most`, before they are read.
        """
        digest, name = self._found(reference)
        if (size := self.size(reference)) > most:
            raise CorruptState(f"object {reference} in {self.root} has {size} bytes, and {most} may be read of it")
        try:
            content = self._read(digest, name)
        except FileNotFoundError:
            raise InvalidInput(f"object {reference} is not in {self.root}") from None
        if name.endswith(PACKED):
            content = _inflated(content, reference)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptState(f"object {reference} in {self.root} does not match its digest")
        return content

    def keep(self, reference: str, stored: bytes, *, packed: bool) -> None:
        """Store what another store has in its file of an object; raises CorruptState where that is not the object."""
        digest = self._digest(reference)
        if packed:
            _checked(_inflated_size(stored, reference), len(stored), reference)
        content = _inflated(stored, reference) if packed else stored
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptState(f"object {reference} does not match its digest")
        self._store(digest, content, compress=packed)

    def size(self, reference: str) -> int:
        """How many bytes `get` would return, without reading them; raises InvalidInput where they are missing."""
        digest, name = self._found(reference)
        with self._folder(digest) as folder, folder.open_file(name) as file:
            stored = os.fstat(file.fileno()).st_size
            if not name.endswith(PACKED):
                return stored
            return _checked(_inflated_size(file.read(_FRAME_HEADER_BYTES), reference), stored, reference)

    def delete(self, reference: str) -> int:
        """Remove an object and return the bytes that this freed, 0 where it was gone already."""
        digest = self._digest(reference)
        name = self._find(digest)
        if name is None:
            return 0
        try:
            size = (self.root / digest[:2] / name).lstat().st_size
            with self._folder(digest) as folder:
                return size if folder.remove(name) else 0
        except FileNotFoundError:
            return 0

    def references(self) -> Iterator[str]:
        """Every object in the folder."""
        if not self.root.is_dir():
            return
        with Folder.open(self.root) as root:
            for first in root.folders():
                with root.inside(first) as folder:
                    for name in folder.files():
                        reference = f"sha256:{first}{name.removesuffix(PACKED)}"
                        if len(reference) == len("sha256:") + 64:
                            yield reference

    def __contains__(self, reference: str) -> bool:
        return self._find(self._digest(reference)) is not None

    def _found(self, reference: str) -> tuple[str, str]:
        """An object's digest and its file's name."""
        digest = self._digest(reference)
        name = self._find(digest)
        if name is None:
            raise InvalidInput(f"object {reference} is not in {self.root}")
        return digest, name

    def _find(self, digest: str) -> str | None:
        """The name of the file of an object, plain or compressed."""
        folder = self.root / digest[:2]
        return next((name for name in (digest[2:], digest[2:] + PACKED) if (folder / name).exists()), None)

    @contextlib.contextmanager
    def _folder(self, digest: str) -> Iterator[Folder]:
        """The folder of an object, which is no link, and in which none is followed."""
        with Folder.open(self.root) as root, root.inside(digest[:2]) as folder:
            yield folder

    def _read(self, digest: str, name: str) -> bytes:
        with self._folder(digest) as folder:
            return folder.read(name)

    @staticmethod
    def _digest(reference: str) -> str:
        digest = reference.removeprefix("sha256:")
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise InvalidInput(f"{reference!r} is not a reference of the form sha256:<64 hex digits>")
        return digest


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None] | None) -> Iterator[None]:
    """Do `work` in a thread beside the body; both are done afterwards. Raises what it raised.

    A disk takes as long for two syncs at once as for one, and a run's next step waits for them.
    """
    if work is None:
        yield
        return
    with ThreadPoolExecutor(1, "esper-sync") as pool:
        done = pool.submit(work)
        yield
    done.result()


def _inflated(stored: bytes, reference: str) -> bytes:
    """The bytes of a compressed object; never more than its own header says."""
    size = _inflated_size(stored, reference)
    try:
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptState(f"object {reference} cannot be decompressed: {error}") from None


def _inflated_size(head: bytes, reference: str) -> int:
    try:
        size: int = zstandard.frame_content_size(head)
    except zstandard.ZstdError as error:
        raise CorruptState(f"object {reference} should be compressed and is not: {error}") from None
    if size < 0:
        raise CorruptState(f"object {reference} does not say how large it is")
    return size


def _checked(size: int, stored: int, reference: str) -> int:
    if size > max(UNPACKED_BYTES, UNPACKED_RATIO * stored):
        raise CorruptState(f"object {reference} unpacks from {stored} to {size} bytes, which nothing of ours does")
    return size
