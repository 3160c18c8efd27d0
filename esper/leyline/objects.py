"""Large bytes by their SHA-256: weights, checkpoints, artifacts and long observations. Events carry `sha256:<hex>`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

import zstandard

from esper.errors import CorruptState, InvalidInput

MOST_BYTES: Final = 16 * 2**30
"""No object is larger, whatever its file says."""
UNPACKED_RATIO: Final = 100
"""Weights hardly pack at all, and even a fresh optimiser's zeros are beside them."""
UNPACKED_BYTES: Final = 64 * 2**20
"""What packs better than that is read up to so much."""
_LEVEL: Final = 3
_FRAME_HEADER_BYTES: Final = 18  # the longest that a Zstandard frame can have


class ObjectStore:
    """A folder of immutable objects, `objects/ab/cdef…` (`.zst` where compressed); safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes, *, compress: bool = False) -> str:
        """Store `content` and return its reference; durable (file and folder synced) when this returns.

        The reference is of `content` as given, whether it is kept compressed or not.
        """
        digest = hashlib.sha256(content).hexdigest()
        if self._find(digest) is None:
            path = self._path(digest)
            if compress:
                path, content = _packed(path), zstandard.ZstdCompressor(level=_LEVEL).compress(content)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return f"sha256:{digest}"

    def get(self, reference: str, most: int = MOST_BYTES) -> bytes:
        """The bytes behind `reference`; raises InvalidInput where they are missing, CorruptState where they changed.

        CorruptState also where they are more than `most`, before they are read.
        """
        digest = self._digest(reference)
        path = self._found(reference)
        if (size := self.size(reference)) > most:
            raise CorruptState(f"object {reference} in {self.root} has {size} bytes, and {most} may be read of it")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise InvalidInput(f"object {reference} is not in {self.root}") from None
        if path.suffix:
            content = _inflated(content, reference)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptState(f"object {reference} in {self.root} does not match its digest")
        return content

    def size(self, reference: str) -> int:
        """How many bytes `get` would return, without reading them; raises InvalidInput where they are missing."""
        path = self._found(reference)
        if not path.suffix:
            return path.stat().st_size
        with path.open("rb") as file:
            size = _inflated_size(file.read(_FRAME_HEADER_BYTES), reference)
        return _checked(size, path.stat().st_size, reference)

    def delete(self, reference: str) -> int:
        """Remove an object and return the bytes that this freed, 0 where it was gone already."""
        path = self._find(self._digest(reference))
        if path is None:
            return 0
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def __contains__(self, reference: str) -> bool:
        return self._find(self._digest(reference)) is not None

    def _found(self, reference: str) -> Path:
        path = self._find(self._digest(reference))
        if path is None:
            raise InvalidInput(f"object {reference} is not in {self.root}")
        return path

    def _find(self, digest: str) -> Path | None:
        """The file of an object, plain or compressed."""
        path = self._path(digest)
        return next((each for each in (path, _packed(path)) if each.exists()), None)

    @staticmethod
    def _digest(reference: str) -> str:
        digest = reference.removeprefix("sha256:")
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise InvalidInput(f"{reference!r} is not a reference of the form sha256:<64 hex digits>")
        return digest

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest[2:]


def _packed(path: Path) -> Path:
    return path.with_suffix(".zst")


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
