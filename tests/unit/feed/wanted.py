"""What the tests of the feed ask for."""

from __future__ import annotations

from streams.feed import Field, Schema

ID = Field("event_id", width=16)
PACKETS = Schema("epoch_completed", [ID, "log_partition", "log_offset", "epoch"])
REPORTS = Schema("field_report", [ID, "log_partition", "log_offset"])
