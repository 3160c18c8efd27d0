"""Pictures of runs as SVG, for the report and for notebooks: they need no plotting library, no network and no fonts."""

from __future__ import annotations

from projections.pictures.bars import Bar, bars
from projections.pictures.lanes import Lane, Stay, swimlane
from projections.pictures.lines import Mark, Series, lines
from projections.pictures.svg import Picture

__all__ = ["Bar", "Lane", "Mark", "Picture", "Series", "Stay", "bars", "lines", "swimlane"]
