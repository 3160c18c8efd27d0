"""The policies by the names that a run's configuration gives them."""

from __future__ import annotations

from typing import Final

from esper.errors import InvalidInput
from esper.tamiyo.policies.heuristic import HEURISTIC
from esper.tamiyo.policy import NONE, RANDOM, Policy

POLICIES: Final[dict[str, Policy]] = {policy.name: policy for policy in (HEURISTIC, RANDOM, NONE)}


def find(name: str) -> Policy:
    """The policy of that name; raises InvalidInput where there is none."""
    policy = POLICIES.get(name)
    if policy is None:
        raise InvalidInput(f"there is no policy {name!r}; choose {', '.join(POLICIES)}")
    return policy
