"""Site shapes as people write them: 32 a vector, 16x32 tokens of features, 16x8x8 an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper.errors import InvalidInput
from esper.karn.blueprint import ShapeKind, SiteShape

KINDS: Final[dict[int, ShapeKind]] = {1: "vector", 2: "token", 3: "image"}
USUAL: Final[dict[ShapeKind, tuple[int, ...]]] = {"vector": (32,), "token": (16, 32), "image": (16, 8, 8)}
"""A site of each kind as the small tasks have them: what stands for a kind where nobody names a shape."""


def parse_shape(text: str) -> SiteShape:
    """The site shape that `text` means; raises InvalidInput for one that no site can have."""
    sizes = [int(part) if part.isdecimal() else 0 for part in text.lower().split("x")]
    if len(sizes) not in KINDS or min(sizes) < 1:
        raise InvalidInput(
            f"shape {text!r} is none of a site: write 32 for a vector, 16x32 for tokens x features, 16x8x8 for an image"
        )
    return SiteShape(KINDS[len(sizes)], tuple(sizes))


def shape_text(shape: Sequence[int]) -> str:
    """The sizes as `parse_shape` reads them."""
    return "x".join(str(size) for size in shape)
