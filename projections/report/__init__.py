"""`esper report`: one run as one page that needs nothing else."""

from __future__ import annotations

from projections.report.page import page

__all__ = ["page"]
