"""Seals: the file beside a projection's says, signed, that it was made here and with a key of ours.

While a projection is open its file changes, so its seal names only which file it is: inode and birth, since file
systems give an inode's number again at once, and a word that is drawn at every opening and stands in the file, since
`cp` writes into the file that is there. When it is closed the seal names its size and times too, so that a file that
was exchanged or written over meanwhile does not pass, whatever its inode. One that was killed keeps the first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path
from typing import Final

from esper.errors import CorruptState
from esper.leyline.folders import Folder
from esper.leyline.signing import KeyRing, Signed

SEAL: Final = ".seal"
"""The end of the name of the file beside a projection's that says with whose key it was made."""

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_BTIME_AT: Final = 80


def holds_closed(path: Path, ring: KeyRing) -> bool:
    """Whether the file is the one that was sealed with a key of `ring` when it was closed; never a copy."""
    return _signed(path, ring, _closed(path))


def holds_open(path: Path, ring: KeyRing, word: str) -> bool:
    """Whether the seal of a file that is open, or was when it was killed, is in force: it is not after `break_seal`."""
    return bool(word) and _signed(path, ring, _open(path, word))


def write_open(path: Path, ring: KeyRing, word: str) -> None:
    """Seal a file that is open from now on, and has `word` in it. Raises OSError where that cannot be written."""
    _write(path, ring, _open(path, word))


def write_closed(path: Path, ring: KeyRing) -> None:
    """Seal a file that is closed now; one that a cursor still has open keeps its seal of an open one."""
    with contextlib.suppress(OSError):  # then the next opening makes it anew, which is right and only slow
        if not path.with_name(f"{path.name}.wal").exists() and not _is_open_here(path):
            _write(path, ring, _closed(path))


def _is_open_here(path: Path) -> bool:
    """Whether this process still has the file open, as by a cursor of another thread: then DuckDB may yet write."""
    found = path.lstat()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            held = each.stat()
            if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                return True
    return False


def break_seal(path: Path) -> None:
    """Have the file made anew the next time that it is opened with keys."""
    with Folder.open(path.parent) as folder, contextlib.suppress(FileNotFoundError):
        folder.remove(f"{path.name}{SEAL}")


def _write(path: Path, ring: KeyRing, text: bytes) -> None:
    signed = ring.sign(text)
    with Folder.open(path.parent) as folder:
        folder.write(f"{path.name}{SEAL}", f"{signed.key_id} {(signed.signature or b'').hex()}".encode())


def _signed(path: Path, ring: KeyRing, text: bytes) -> bool:
    try:
        with Folder.open(path.parent) as folder:
            key_id, _, signature = folder.read(f"{path.name}{SEAL}").decode("ascii").partition(" ")
        said = bytes.fromhex(signature)
    except (FileNotFoundError, ValueError, CorruptState):
        return False
    return ring.verify(Signed(text, key_id, said), time.time_ns()) is None


def _closed(path: Path) -> bytes:
    found = path.lstat()
    return _file(path) + f", {found.st_size} bytes, {found.st_mtime_ns}, {found.st_ctime_ns}".encode()


def _open(path: Path, word: str) -> bytes:
    return _file(path) + f", open, {word}".encode()


def _file(path: Path) -> bytes:
    return f"esper projection {path.name} in file {path.lstat().st_ino} born {_born(path)}".encode()


def _born(path: Path) -> str:
    """When a file was made, which nobody can set, as the file system tells it; `?` where it does not.

    Python tells it only on other systems than Linux; statx(2) is in glibc since 2.28 and in musl.
    """
    with contextlib.suppress(AttributeError):
        return str(path.lstat().st_birthtime)  # type: ignore[attr-defined,unused-ignore]
    told = ctypes.create_string_buffer(_STATX_BYTES)
    with contextlib.suppress(AttributeError):
        statx = ctypes.CDLL(None).statx
        if statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, told) == 0:
            has = int.from_bytes(told.raw[:4], "little") & _STATX_BTIME
            return told.raw[_BTIME_AT : _BTIME_AT + 12].hex() if has else "?"
    return "?"
