"""The feed for training jobs: history and the live log as a PyTorch dataset. See README.md beside this file."""

from streams.feed.batch import Batch
from streams.feed.feed import EventFeed
from streams.feed.schema import BLUEPRINTS, FIELD_REPORTS, LONGEST, SEEDS, SLOTS, STATE_PACKETS, Field, Schema

__all__ = [
    "BLUEPRINTS",
    "FIELD_REPORTS",
    "LONGEST",
    "SEEDS",
    "SLOTS",
    "STATE_PACKETS",
    "Batch",
    "EventFeed",
    "Field",
    "Schema",
]
