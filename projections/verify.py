"""Checksums: which files of the archive are not what was written.

DuckDB does not check Parquet's page checksums (tried: 60 of 60 flipped bits were read as wrong values), so a reader
compares every file with its SHA-256 in the manifest before the first query. What was compared is remembered by the
file's size, time and inode, and when that was, in a cache beside the manifest; after some hours it counts no more,
because a bit that goes bad changes none of these. The archiver looks again before that (`scrub`), so that nobody waits
for it. Without a writable folder everything is compared again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from projections.manifest import FILES, FileEntry

CACHE: Final = "verified.json"

LOOK_AGAIN_S: Final = 6 * 3600.0
"""A file that nobody looked at for so long is compared with its checksum before it is read."""

SCRUB_AGE_S: Final = LOOK_AGAIN_S / 3
"""The archiver looks again at files that nobody looked at for so long,"""

SCRUB_BYTES: Final = 64 * 2**20
"""at so many bytes a turn; about 0.1 s of a core. What is left is for the next turn."""

REMEMBER_S: Final = 60
"""A second look so soon after the first is not worth a write."""

Stamp = list[int]
"""A file's size, time (ns) and inode."""

Seen = Mapping[str, list[int]]
"""The stamps of sound files, each followed by the Unix second at which it was compared, and by 1 where a reader has
seen that it unpacks to no more than it may."""

Look = Callable[[Sequence[FileEntry]], Mapping[str, str]]
"""What a reader finds wrong with files whose bytes are those that were written, as somebody else may have; by name."""


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
        mend = f"`esper archive repair {self.name}` brings them back from the log or a copy"
        return f"{self.path}: {self.problem}; its {self.rows} rows of {self.table} are left out; {mend}"


def damaged(
    archive: Path,
    entries: Collection[FileEntry],
    *,
    trust_cache: bool = True,
    progress: Callable[[FileEntry], None] = lambda _entry: None,
    now_s: Callable[[], float] = time.time,
    look: Look | None = None,
) -> list[Damage]:
    """The damaged files among `entries`, each with what is wrong; `trust_cache=False` reads every byte again.

    `progress` is told every file that was read. `look` is asked once, of all files that are sound together.
    """
    seen = _load(archive) if trust_cache else {}
    now = now_s()
    known = {entry.name for entry in entries if 0 <= now - _looked_at(archive, entry, seen) < LOOK_AGAIN_S}
    wanted = [entry for entry in entries if entry.name not in known or (look is not None and not seen[entry.name][4:])]
    return _compared(archive, wanted, now, known=known, look=look, progress=progress)


def scrub(archive: Path, entries: Collection[FileEntry], now_s: Callable[[], float] = time.time) -> list[Damage]:
    """Look again at those files that were not looked at for longest, at `SCRUB_BYTES` of them; the damaged ones.

    It goes on where it ended, in whichever process that was.
    """
    seen, now = _load(archive), now_s()
    ages = {entry.name: now - _looked_at(archive, entry, seen) for entry in entries}
    due = sorted((entry for entry in entries if not 0 <= ages[entry.name] < SCRUB_AGE_S), key=lambda each: each.name)
    due.sort(key=lambda each: ages[each.name], reverse=True)
    chosen: list[FileEntry] = []
    size = 0
    for entry in due:
        if chosen and size + entry.size > SCRUB_BYTES:
            break
        chosen.append(entry)
        size += entry.size
    return _compared(archive, chosen, now)


def _looked_at(archive: Path, entry: FileEntry, seen: Seen) -> float:
    """When a file was found as it is now, Unix seconds; long ago where it is not known."""
    noted = seen.get(entry.name, [])
    return noted[3] if len(noted) > 3 and noted[:3] == _stamp(archive / FILES / entry.name) else float("-inf")


def _compared(
    archive: Path,
    entries: Collection[FileEntry],
    now: float,
    *,
    known: Collection[str] = (),
    look: Look | None = None,
    progress: Callable[[FileEntry], None] = lambda _entry: None,
) -> list[Damage]:
    """Those of `entries` that are not what was written; the others are remembered. `known` ones are not read."""
    if not entries:
        return []
    seen = _load(archive)
    stamps = {entry.name: _stamp(archive / FILES / entry.name) for entry in entries}  # before they are read

    def problem_of(entry: FileEntry) -> str | None:
        return None if entry.name in known else _problem(archive, entry)

    problems: dict[str, str | None] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing releases the interpreter
        for entry, problem in zip(entries, pool.map(problem_of, entries), strict=True):
            problems[entry.name] = problem
            progress(entry)
    if look is not None:
        problems.update(look([entry for entry in entries if problems[entry.name] is None]))
    read = [(entry, problems[entry.name]) for entry in entries]
    sound: dict[str, list[int]] = {}
    for each, problem in read:
        stamp = stamps[each.name]
        if problem is None and stamp is not None:
            before = seen.get(each.name, [])
            at_s = before[3] if each.name in known and len(before) > 3 else int(now)
            shaped = [1] if look is not None or (before[:3] == stamp and before[4:]) else []
            sound[each.name] = [*stamp, at_s, *shaped]
    _remember(archive, sound, {each.name for each, problem in read if problem is not None})
    return [
        Damage(archive / FILES / entry.name, entry.table, entry.rows, problem)
        for entry, problem in read
        if problem is not None
    ]


def _problem(archive: Path, entry: FileEntry) -> str | None:
    try:
        with (archive / FILES / entry.name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if digest == entry.sha256 else "its bytes do not match their checksum"


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(archive: Path) -> dict[str, list[int]]:
    """What was found sound; nothing where the cache is damaged, or is no such list."""
    try:
        loaded = json.loads((archive / CACHE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    return {name: each for name, each in loaded.items() if isinstance(each, list) and set(map(type, each)) <= {int}}


def _news(before: list[int], now: list[int]) -> bool:
    if len(before) < 4:  # an older Esper's, which did not remember when it looked
        return True
    return before[:3] != now[:3] or before[4:] != now[4:] or now[3] - before[3] >= REMEMBER_S


def _remember(archive: Path, sound: Mapping[str, list[int]], unsound: Collection[str]) -> None:
    """Add what was found sound to the cache, as it is by now: another reader may have found the same, or more.

    Best effort: losing the cache costs time, and the folder may be read-only.
    """
    before = _load(archive)
    if not any(_news(before.get(name, []), each) for name, each in sound.items()) and before.keys().isdisjoint(unsound):
        return
    known = {**before, **sound}
    kept = {name: each for name, each in known.items() if name not in unsound and (archive / FILES / name).exists()}
    temporary = archive / f".{CACHE}.{secrets.token_hex(4)}"  # the threads of a process write at once too
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(kept))
            temporary.replace(archive / CACHE)
        finally:
            temporary.unlink(missing_ok=True)
