"""Known faults, put back into the processes of a house, to show that the checker finds them."""

from __future__ import annotations


def apply(name: str) -> None:
    """Put a fault back."""
    raise AssertionError(name)
