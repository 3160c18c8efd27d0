"""Pictures of runs as SVG, for the report and for notebooks: they need no plotting library, no network and no fonts."""

from __future__ import annotations

from projections.pictures.charts import Bar, Lane, Mark, Series, Stay, bars, lines, swimlane
from projections.pictures.svg import Picture

__all__ = ["Bar", "Lane", "Mark", "Picture", "Series", "Stay", "bars", "lines", "swimlane"]
