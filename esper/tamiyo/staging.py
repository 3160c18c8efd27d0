"""Which runs a staged policy decides for: by the run's id alone, so that every process says the same."""

from __future__ import annotations

import hashlib


def serves(run_id: str, version: str, share: float) -> bool:
    """Whether a version that is promoted for a share of new runs decides for this one; a share of 0 is all runs."""
    if share == 0.0:
        return True
    place = hashlib.sha256(f"tamiyo.stage/{version}/{run_id}".encode()).digest()
    return int.from_bytes(place[:8], "big") / 2**64 < share
