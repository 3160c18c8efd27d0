"""Checksums: which files of the archive are not what was written.

DuckDB does not check Parquet's page checksums (tried: 60 of 60 flipped bits were read as wrong values), so a reader
compares every file with its SHA-256 in the manifest before the first query. What was compared once is remembered by the
file's size, time and inode in a cache beside the manifest, which is written only where it would say something new;
without a writable folder everything is compared again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from projections.manifest import FILES, FileEntry

CACHE: Final = "verified.json"


SERIOUS: Final = frozenset(
    {"file", "records", "repeated", "lost", "run", "log", "unlisted", "key", "verdict", "object"}
)
"""Kinds of findings after which a history is not whole. The others are told and everything is there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: its kind, the place, and in words what it is.

    `file`: a file is damaged or missing. `records`: offsets that no sound file holds. `repeated`: offsets that are held
    twice. `lost`: offsets that the log no longer had when the archive came for them. `run`: the first fact of a run
    that cannot be true, such as a gap in its sequence. `newer`: events or tables of a newer Esper, kept as they came.
    `invalid`: records that are no event by contract, kept as they came. `log`: the log ends before the archive does.
    `behind`: the log has more. `unlisted`: a file that the manifest does not list has records that no other has.
    `stray`: something that lies in the archive and is none of its files. `key`: records under a key that is not known,
    or was retired when they came. `verdict`: facts that count and should not, or the other way round. `object`:
    objects that events name are missing. `note`: what was not looked at.
    """

    kind: str
    where: str
    what: str

    @property
    def serious(self) -> bool:
        """Whether something is missing or wrong because of it."""
        return self.kind in SERIOUS

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that the manifest lists and that cannot be read as it was written."""

    path: Path | str
    table: str
    rows: int
    problem: str

    @property
    def name(self) -> str:
        """The file's name in the archive."""
        return str(self.path).rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; its {self.rows} rows of {self.table} are left out"


def damaged(
    archive: Path,
    entries: Collection[FileEntry],
    *,
    trust_cache: bool = True,
    progress: Callable[[FileEntry], None] = lambda _entry: None,
) -> list[Damage]:
    """The damaged files among `entries`, each with what is wrong; `trust_cache=False` reads every byte again.

    `progress` is told every file that was read.
    """
    cache = _load(archive) if trust_cache else {}
    stamps = {entry.name: _stamp(archive / FILES / entry.name) for entry in entries}
    unknown = [entry for entry in entries if stamps[entry.name] is None or cache.get(entry.name) != stamps[entry.name]]
    if not unknown:
        return []
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing releases the interpreter
        found = []
        for entry, problem in zip(unknown, pool.map(lambda each: _problem(archive, each), unknown), strict=True):
            found.append(problem)
            progress(entry)
    sound = {entry.name: stamps[entry.name] for entry, problem in zip(unknown, found, strict=True) if problem is None}
    _remember(archive, sound)
    return [
        Damage(archive / FILES / entry.name, entry.table, entry.rows, problem)
        for entry, problem in zip(unknown, found, strict=True)
        if problem is not None
    ]


def _problem(archive: Path, entry: FileEntry) -> str | None:
    try:
        with (archive / FILES / entry.name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if digest == entry.sha256 else "its bytes do not match their checksum"


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(archive: Path) -> dict[str, list[int] | None]:
    try:
        loaded = json.loads((archive / CACHE).read_bytes())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _remember(archive: Path, sound: Mapping[str, list[int] | None]) -> None:
    """Add what was found sound to the cache, as it is by now: another reader may have found the same, or more.

    Best effort: losing the cache costs time, and the folder may be read-only.
    """
    cache = _load(archive)
    if all(cache.get(name) == stamp for name, stamp in sound.items()):
        return
    kept = {name: stamp for name, stamp in {**cache, **sound}.items() if (archive / FILES / name).exists()}
    temporary = archive / f".{CACHE}.{secrets.token_hex(4)}"  # the threads of a process write at once too
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(kept))
            temporary.replace(archive / CACHE)
        finally:
            temporary.unlink(missing_ok=True)
