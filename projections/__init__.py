"""The archive (log to Parquet) and the DuckDB folds: SQL files, one per question."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from projections.history import History

__all__ = ["open_history", "open_sample"]


def open_history(archive: Path) -> History:
    """The history in the folder `archive` as SQL; see `projections.history`. DuckDB is imported here and not before."""
    from projections.history import History  # noqa: PLC0415

    return History(archive)


def open_sample() -> History:
    """The small history that Esper carries: four runs to try a question on."""
    from projections.sample import sample  # noqa: PLC0415

    return sample()
