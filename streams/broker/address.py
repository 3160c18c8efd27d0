"""Where the embedded log of a data folder listens: a file that readers look into, because the port is any free one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NAME: Final = "log.address"


def write(data_dir: Path, address: str) -> None:
    """Say that the log of `data_dir` listens at `address`."""
    folder = data_dir / "run"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NAME}.{os.getpid()}"
    temporary.write_text(address + "\n", encoding="ascii")
    temporary.replace(folder / NAME)


def remove(data_dir: Path) -> None:
    """Say that it no longer does; a log that was killed cannot, so an address may lead nowhere."""
    (data_dir / "run" / NAME).unlink(missing_ok=True)


def read(data_dir: Path) -> str | None:
    """HOST:PORT of the embedded log, None where none runs."""
    try:
        return (data_dir / "run" / NAME).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
