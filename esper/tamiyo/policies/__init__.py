"""The policies by the names that a run's configuration gives them."""

from __future__ import annotations

from typing import Final

from esper.errors import InvalidInput
from esper.tamiyo.policies.heuristic import HEURISTIC, HEURISTIC_2, HEURISTIC_3
from esper.tamiyo.policy import EXPLORE, NONE, RANDOM, Policy

POLICIES: Final[dict[str, Policy]] = {policy.name: policy for policy in (HEURISTIC, RANDOM, EXPLORE, NONE)}

EARLIER: Final = (HEURISTIC_2, HEURISTIC_3)
"""Policies that decide nothing any more, kept so that what they decided can be derived again."""


def of_digest(name: str, digest: bytes) -> Policy | None:
    """The policy of that name and digest, also an earlier one; None where this Esper has none."""
    return next((each for each in (*POLICIES.values(), *EARLIER) if (each.name, each.digest) == (name, digest)), None)


def find(name: str) -> Policy:
    """The policy of that name; raises InvalidInput where there is none."""
    policy = POLICIES.get(name)
    if policy is None:
        raise InvalidInput(f"there is no policy {name!r}; choose {', '.join(POLICIES)}, learned")
    return policy
