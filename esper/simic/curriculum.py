"""The curriculum: four stages from states with few legal actions to all, which change how often each is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from esper.errors import InvalidInput

STAGES: Final = 4
LATER: Final = 0.1
"""The weight of a state that belongs to a later stage: never 0, so that no state is kept from the network."""


def stage_of(done: float) -> int:
    """The stage, 0 to 3, once a share of the training is done; raises InvalidInput for a share outside [0, 1]."""
    if not 0.0 <= done <= 1.0:
        raise InvalidInput(f"the share of the training that is done must be in [0, 1], not {done}")
    return min(int(done * STAGES), STAGES - 1)


def sampling_weights(legal_actions: Sequence[int], stage: int) -> Tensor:
    """A factor of each state's chance of being drawn (states): 1 up to the stage's quarter of them, LATER beyond.

    States are ranked by their number of legal actions; equals rank together. In the last stage all are 1.
    """
    if not 0 <= stage < STAGES:
        raise InvalidInput(f"there are {STAGES} stages of the curriculum, 0 to {STAGES - 1}, not {stage}")
    counts = torch.tensor(list(legal_actions), dtype=torch.float64)
    if not len(counts):
        return counts
    limit = torch.quantile(counts, (stage + 1) / STAGES)
    return torch.full_like(counts, LATER).masked_fill(counts <= limit, 1.0)
