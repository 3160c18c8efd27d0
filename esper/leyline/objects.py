"""Large bytes by their SHA-256: weights, checkpoints, artifacts and long observations. Events carry `sha256:<hex>`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from esper.errors import CorruptState, InvalidInput


class ObjectStore:
    """A folder of immutable objects, `objects/ab/cdef…`; safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes) -> str:
        """Store `content` and return its reference; durable (file and folder synced) when this returns."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
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

    def get(self, reference: str) -> bytes:
        """The bytes behind `reference`; raises InvalidInput where they are missing, CorruptState where they changed."""
        digest = self._digest(reference)
        try:
            content = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise InvalidInput(f"object {reference} is not in {self.root}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptState(f"object {reference} in {self.root} does not match its digest")
        return content

    def delete(self, reference: str) -> int:
        """Remove an object and return the bytes that this freed, 0 where it was gone already."""
        path = self._path(self._digest(reference))
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def __contains__(self, reference: str) -> bool:
        return self._path(self._digest(reference)).exists()

    @staticmethod
    def _digest(reference: str) -> str:
        digest = reference.removeprefix("sha256:")
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise InvalidInput(f"{reference!r} is not a reference of the form sha256:<64 hex digits>")
        return digest

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest[2:]
