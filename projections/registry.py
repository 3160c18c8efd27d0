"""All projections by name, and where their files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput
from projections.experience import EXPERIENCE
from projections.library import URZA
from projections.projection import Projection

PROJECTIONS: Final[Mapping[str, Projection]] = {each.name: each for each in (URZA, EXPERIENCE)}


def named(name: str) -> Projection:
    """The projection of this name; raises InvalidInput where there is none."""
    found = PROJECTIONS.get(name)
    if found is None:
        raise InvalidInput(f"there is no projection {name!r}; there are {', '.join(PROJECTIONS)}")
    return found


def file_of(data_dir: Path, projection: Projection) -> Path:
    """The projection's file in a data folder."""
    return data_dir / "projections" / f"{projection.name}.duckdb"
