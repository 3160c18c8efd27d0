"""Objects that every machine can reach: a folder at an address that fsspec knows, and what of it lies here already.

An object has the same name there as here and is known by its digest, so nothing that comes from there is believed: it
is compared before it is kept. What was written here is there, too, when `put` returns, because an event that names it
may be read anywhere from then on. What lies here is a copy and is taken away, oldest first, where it comes to too much.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from esper.errors import CorruptState, Interrupted, InvalidInput, LogUnavailable
from esper.leyline.objects import MOST_BYTES, PACKED, ObjectStore
from projections.addresses import Folder

LOOK_EVERY: Final = 16
"""The folder is looked through when so many objects came, as it is asked for its size."""


class SharedObjects(ObjectStore):
    """The objects at `elsewhere`; those in the folder `root` are copies, of `budget` bytes together.

    Methods raise what those of ObjectStore do, `put` Interrupted and all others LogUnavailable where the address does
    not answer.
    """

    def __init__(self, root: Path, elsewhere: Folder, budget: int) -> None:
        super().__init__(root)
        self.elsewhere = elsewhere
        self._budget = budget
        self._came = 0

    @property
    def place(self) -> str:
        """Where its objects are, for people."""
        return f"{self.elsewhere.address} and {self.root}"

    @property
    def is_there(self) -> bool:
        """They may be elsewhere."""
        return True

    def put(self, content: bytes, *, compress: bool = False) -> str:
        """Store it here and there; the reference."""
        reference = super().put(content, compress=compress)
        digest, name = self._found(reference)
        try:
            self.elsewhere.write(_place(digest, name), self._read(digest, name))
        except OSError as error:
            raise Interrupted(
                f"{self.elsewhere.address} does not take an object ({_said(error)}): what has been recorded is kept, "
                "and a run goes on with `esper resume` once it does"
            ) from None
        self._make_room()
        return reference

    def get(self, reference: str, most: int = MOST_BYTES) -> bytes:
        """The bytes behind a reference: from here, or from there where they are not here or are damaged here."""
        if self._find(self._digest(reference)) is not None:
            try:
                content = super().get(reference, most)
            except CorruptState:
                if self._is_larger(reference, most):
                    raise
            except InvalidInput:
                pass  # another process took it away
            else:
                self._used(reference)
                return content
        self._fetch(reference)
        return super().get(reference, most)

    def _is_larger(self, reference: str, most: int) -> bool:
        try:
            return super().size(reference) > most
        except (CorruptState, InvalidInput):
            return False

    def size(self, reference: str) -> int:
        """How many bytes `get` would return."""
        if self._find(self._digest(reference)) is None:
            self._fetch(reference)
        return super().size(reference)

    def delete(self, reference: str) -> int:
        """Remove an object here and there; the bytes that this freed here."""
        digest = self._digest(reference)
        for name in _names(digest):
            try:
                self.elsewhere.remove(_place(digest, name))
            except OSError as error:
                raise self._silent(error) from None
        return super().delete(reference)

    def __contains__(self, reference: str) -> bool:
        digest = self._digest(reference)
        return self._find(digest) is not None or self._there(digest) is not None

    def _there(self, digest: str) -> str | None:
        try:
            return next((name for name in _names(digest) if self.elsewhere.has(_place(digest, name))), None)
        except OSError as error:
            raise self._silent(error) from None

    def _fetch(self, reference: str) -> None:
        """Have an object here as well."""
        digest = self._digest(reference)
        for name in _names(digest):
            try:
                stored = self.elsewhere.read(_place(digest, name), MOST_BYTES)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._silent(error) from None
            try:
                self.keep(reference, stored, packed=name.endswith(PACKED))
            except CorruptState as error:
                raise CorruptState(f"at {self.elsewhere.address}: {error}") from None
            self._make_room()
            return
        raise InvalidInput(f"object {reference} is neither in {self.root} nor at {self.elsewhere.address}")

    def _silent(self, error: OSError) -> LogUnavailable:
        return LogUnavailable(
            f"the objects at {self.elsewhere.address} cannot be reached ({_said(error)}): correct ESPER_OBJECTS_URL"
        )

    def _used(self, reference: str) -> None:
        """It is the newest now: what was not asked for the longest goes first."""
        digest, name = self._found(reference)
        os.utime(self.root / digest[:2] / name)

    def _make_room(self) -> None:
        """Take away what lies here and there, oldest first, until what lies here is within the budget."""
        self._came += 1
        if (self._came - 1) % LOOK_EVERY:
            return
        found = []
        for reference in self.references():
            digest = self._digest(reference)
            name = self._find(digest)
            if name is not None:
                state = (self.root / digest[:2] / name).stat()
                found.append((state.st_mtime_ns, state.st_size, reference))
        over = sum(size for _, size, _ in found) - self._budget
        for _, size, reference in sorted(found)[:-1]:  # the newest was just asked for
            if over <= 0:
                return
            if self._there(self._digest(reference)) is not None:
                super().delete(reference)
                over -= size


def _names(digest: str) -> tuple[str, str]:
    return digest[2:], digest[2:] + PACKED


def _place(digest: str, name: str) -> str:
    return f"{digest[:2]}/{name}"


def _said(error: OSError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
