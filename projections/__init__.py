"""The archive of Esper (log to Parquet) and the DuckDB folds: SQL files, one per question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esper.installation import check_packages

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.history import History

__all__ = ["open_history", "open_sample"]

check_packages("contracts", "esper")


def open_history(archive: Path | str, progress: Callable[[int, int], None] = lambda _done, _of: None) -> History:
    """The history in the folder `archive`, or at an address such as `s3://bucket/archive`, as SQL.

    See `projections.history`. Every view is there, without rows where nothing is archived yet. An archive at an address
    is copied to this machine first, what is new of it: `progress` is told the bytes done and the bytes to do. DuckDB is
    imported here and not before.
    """
    from projections.history import History  # noqa: PLC0415

    if isinstance(archive, Path) or "://" not in archive:
        return History(Path(archive))
    import time  # noqa: PLC0415

    from projections.transfer import Mirror  # noqa: PLC0415

    mirror = Mirror(archive, time.time, progress)
    return History(mirror.source.local) if mirror.source.local is not None else History(mirror.folder, mirror)


def open_sample() -> History:
    """The small history that Esper carries: a few runs to try a question on."""
    from projections.questions import sample  # noqa: PLC0415

    return sample()
