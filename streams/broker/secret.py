"""The secret of a log's folder: whoever names it to the broker is one of our processes.

The broker draws it at its first start, readable by its user alone. It opens this one log; nothing is signed with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from shlex import quote
from typing import Final

from esper.errors import LogUnavailable

USER: Final = "esper"
NAME: Final = "secret"
_BYTES: Final = 32
_MOST_BYTES: Final = 1024


def own_secret(folder: Path) -> str:
    """The secret of the log in `folder`, drawn where there is none.

    Raises:
        LogUnavailable: others can read the file, it is empty or no plain file, or it cannot be read.
        OSError: it cannot be made.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        _draw(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LogUnavailable(f"the log's secret {path} cannot be read: {error.strerror}: move it away") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise LogUnavailable(f"the log's secret {path} is no plain file: move it away")
        if mode & 0o077:
            raise LogUnavailable(
                f"the log's secret {path} can be read by others (mode {mode:04o}): run `chmod 600 {quote(str(path))}`, "
                "or move it away and another is drawn"
            )
        found = file.read(_MOST_BYTES).decode("ascii", errors="replace").strip()
    if len(found) < 2 * _BYTES:
        raise LogUnavailable(f"the log's secret {path} is cut short: move it away, and another is drawn")
    return found


def known_secret(folder: Path) -> str | None:
    """The secret of the log in `folder`, as a client needs it; None where the log has none that we may read."""
    try:
        return (folder / NAME).read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


def _draw(path: Path) -> None:
    """Write a new secret whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{NAME}.draft-")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # fails where it exists, which a rename would not
    finally:
        Path(temporary).unlink()
