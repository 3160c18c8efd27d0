"""What a policy decides otherwise than another, on the same stored observations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from esper.tamiyo.decide import decide
from esper.tamiyo.policy import Policy

EXAMPLES = 5


@dataclass(slots=True)
class Changes:
    """Of so many `states` the action is another in `changed`; `kinds` counts "from -> to", `examples` names some."""

    states: int = 0
    changed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the states; 0 where there were none."""
        return self.changed / self.states if self.states else 0.0


def compare(old: Policy, new: Policy, observations: Iterable[bytes]) -> Changes:
    """Let both decide about each observation, with the same draw. Raises ContractViolation for what is none."""
    changes = Changes()
    for observation in observations:
        was, now = (decide(observation, policy, 0.5).chosen for policy in (old, new))
        changes.states += 1
        if was != now:
            changes.changed += 1
            changes.kinds[f"{was.kind} -> {now.kind}"] += 1
            if len(changes.examples) < EXAMPLES:
                changes.examples.append((str(was), str(now)))
    return changes
