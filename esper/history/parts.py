"""What is kept of a recorded state: the digest of each of its tensors, by the tensor's name."""

from __future__ import annotations

import json

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore


def parts_of(objects: ObjectStore, reference: str) -> dict[str, str]:
    """The digests behind a StateDigested's `tensors_ref`; none where they are damaged or gone, as from an export."""
    try:
        parts: dict[str, str] = json.loads(objects.get(reference))
    except (InvalidInput, CorruptState, ValueError):
        return {}
    return parts
