"""What a fork does otherwise than its parent, and where. Free of torch, so that the command line can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from contracts.leyline.v1.event_pb2 import RunStarted
from contracts.leyline.v1.leyline_pb2 import (
    SEED_OPERATION_CULL,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_GERMINATE,
    SeedOperation,
)
from esper.errors import InvalidInput
from esper.tolaria.config import Policy

Where = Literal["step", "packet", "decision"]
"""Before a step; before an epoch's packet, which another policy is to answer; or in place of the decision on it."""

OPERATIONS: Final[dict[str, SeedOperation]] = {
    "germinate": SEED_OPERATION_GERMINATE,
    "cull": SEED_OPERATION_CULL,
    "fossilize": SEED_OPERATION_FOSSILIZE,
}
FORMS: Final = '"cull s2", "fossilize s2", "germinate s1 BP013", "policy random" or "nothing"'


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is done otherwise; `operation` is 0 where it is no seed command, and all is empty for nothing."""

    text: str
    operation: SeedOperation = SeedOperation.SEED_OPERATION_UNKNOWN
    seed_id: str = ""
    blueprint_id: str = ""
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """A run that is yet to become `run_id`, once its past is at an end and `step` steps are taken.

    `parent` is the first fact of the run that it leaves.
    """

    run_id: str
    step: int
    where: Where
    change: Change
    parent: RunStarted


def read_change(text: str) -> Change:
    """The change that a person's words mean; raises InvalidInput for any others."""
    words = text.split()
    match words:
        case ["nothing"]:
            return Change("nothing")
        case ["policy", name]:
            for policy in get_args(Policy):
                if name == policy:
                    return Change(f"policy {name}", policy=policy)
            raise InvalidInput(f"there is no policy {name!r}; choose {', '.join(get_args(Policy))}")
        case ["germinate", seed_id, blueprint_id]:
            return Change(" ".join(words), OPERATIONS["germinate"], seed_id, blueprint_id)
        case ["cull" | "fossilize" as word, seed_id]:
            return Change(" ".join(words), OPERATIONS[word], seed_id)
        case _:
            raise InvalidInput(f"{text!r} is nothing that a fork can do; write {FORMS}")
