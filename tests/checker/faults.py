"""What is done to a house from outside: kills, pauses, clocks, full disks, flipped bits, files from older copies."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.checker.house import BROKER, House

HARMFUL = frozenset({"flip"})
"""Faults after which something acknowledged may really be gone: then it must be named."""

PARTS: dict[str, tuple[str, ...]] = {
    "meta.db": ("log/meta.db",),
    "tail": ("log/topics/*/*/tail",),
    "index": ("log/topics/*/*/*.index",),
    "manifest.json": ("archive/manifest.json",),
    "verified.json": ("archive/verified.json",),
    "projections": ("projections/*",),
    "objects": ("objects/*/*",),
}
"""The files that must agree with others, by what a copy of them is called."""
MOVED = "projections moved"
"""The same part, its files exchanged for the copy's, as tar and rsync do; otherwise the copy is written into them."""

FLIPPED: dict[str, str] = {
    "segment": "log/topics/*/*/*.log",
    "index": "log/topics/*/*/*.index",
    "parquet": "archive/files/*.parquet",
    "verified.json": "archive/verified.json",
    "projection": "projections/*.duckdb",
    "object": "objects/*/*",
}


class Copies:
    """Older copies of those files of a house."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._taken: list[Path] = []

    def take(self) -> None:
        """Keep a copy of all of them as they are now, the database as its own backup makes one."""
        folder = self._house.folder / f"copy-{len(self._taken)}"
        for path in _matching(self._house.data, [each for globs in PARTS.values() for each in globs]):
            target = folder / path.relative_to(self._house.data)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.name == "meta.db":
                with sqlite3.connect(path) as live, sqlite3.connect(target) as copy:
                    live.backup(copy)
                live.close()
                copy.close()
            else:
                with contextlib.suppress(FileNotFoundError):  # one that its writer has moved meanwhile
                    shutil.copy2(path, target)
        self._taken.append(folder)

    def restore(self, parts: Sequence[str], age: float) -> None:
        """Put these parts back from one of the copies: 0 is the newest one, 1 the oldest."""
        if not self._taken:
            return
        folder = self._taken[round((len(self._taken) - 1) * (1 - age))]
        for part in parts:
            globs = PARTS[part.removesuffix(" moved")]
            held = [path.relative_to(folder) for path in _matching(folder, globs)]
            for path in _matching(self._house.data, globs):
                if part in (MOVED, "objects") and (part == MOVED or path.relative_to(self._house.data) not in held):
                    path.unlink()
            for name in held:
                target = self._house.data / name
                if target.parent.is_dir():
                    _forget_beside(target)
                    shutil.copy2(folder / name, target)


def lose(house: House, parts: Sequence[str]) -> None:
    """Delete them."""
    for path in _matching(house.data, [each for part in parts for each in PARTS[part]]):
        _forget_beside(path)
        path.unlink()


def flip(house: House, kind: str, which: float, where: float) -> str:
    """Flip a bit in one file of a kind; `which` and `where` are fractions of all files and of its bytes."""
    paths = [path for path in _matching(house.data, [FLIPPED[kind]]) if path.stat().st_size]
    if not paths:
        return ""
    path = paths[int(which * len(paths))]
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << int(where * 8)
    path.write_bytes(data)
    return str(path.relative_to(house.data))


def _matching(folder: Path, globs: Sequence[str]) -> list[Path]:
    return sorted(path for each in globs for path in folder.glob(each))


def _forget_beside(path: Path) -> None:
    """What SQLite keeps beside its file belongs to the file that goes."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- the faults of a plan, by name


class Faults:
    """Does the faults of a plan. What lasts is ended by `over`, which a plan orders some steps later."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.copies = Copies(house)

    def do(self, what: str, **how: object) -> None:
        """Do one by its name."""
        self._house.journal.note("fault", what=what, how=how)
        action: Callable[..., None] = getattr(self, what)
        action(**how)
        self._house.journal.note("did", what=what, how=how)

    def kill(self, name: str) -> None:
        """SIGKILL, and for a service a new start."""
        process = self._house.named(name)
        if name == BROKER:
            self._house.stop(BROKER, kill=True)
            self._house.start_broker()
        elif name in self._house.services:
            self._house.stop(name, kill=True)
            self._house.start_follower(name)
        elif process is not None:
            process.kill()

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        if process := self._house.named(name):
            process.signal(signal.SIGSTOP)

    def over(self, name: str) -> None:
        """SIGCONT, and room on the disk."""
        if process := self._house.named(name):
            process.signal(signal.SIGCONT)
            self._house.limit_files(process, -1)

    def clock(self, name: str, off_s: float) -> None:
        """Let its wall clock jump."""
        self._house.set_clock(name, off_s)

    def full_disk(self, name: str, size: int) -> None:
        """No file may grow beyond a size."""
        if process := self._house.named(name):
            self._house.limit_files(process, size)

    def copy(self) -> None:
        """Keep copies of the files that can go back."""
        self.copies.take()

    def stale(self, parts: Sequence[str], age: float, *, kill: bool) -> None:
        """Put older copies in their place, while all is stopped."""
        with self._house.at_rest(kill=kill):
            self.copies.restore(parts, age)

    def stale_while_running(self, parts: Sequence[str], age: float) -> None:
        """The same under the feet of who uses them."""
        self.copies.restore(parts, age)

    def lost(self, parts: Sequence[str], *, kill: bool) -> None:
        """Delete files, while all is stopped; all but objects can be made again."""
        with self._house.at_rest(kill=kill):
            lose(self._house, parts)

    def flip(self, kind: str, which: float, where: float, *, kill: bool) -> None:
        """Flip a bit, while all is stopped."""
        with self._house.at_rest(kill=kill):
            self._house.journal.note("flipped", file=flip(self._house, kind, which, where))
