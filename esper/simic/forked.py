"""The rows of a measurement as what is learnt from: states, and what each action that was tried in them came to."""

from __future__ import annotations

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.simic.headroom_table import forks_of, noise_of
from esper.simic.ledger import Ledger
from esper.simic.q_ensemble import ForkedState
from esper.simic.utility import PRICE


def forked_states(ledger: Ledger, objects: ObjectStore, price: float = PRICE) -> list[ForkedState]:
    """Every whole state of the rows, with the mean over orders of data; raises InvalidInput where there is none."""
    forks = forks_of(ledger, price)
    if not forks:
        raise InvalidInput(f"{ledger.path} has no state with all its rollouts yet; `esper learn headroom` goes on")
    noise = noise_of(forks)
    seen = {(row["task"], row["seed"], row["epoch"]): row["observation"] for row in ledger.of("state")}
    return [
        ForkedState(
            run=f"{fork.task} {fork.seed}",
            observation=EpochCompleted.FromString(objects.get(seen[fork.task, fork.seed, fork.epoch])),
            utilities=dict(zip(fork.actions, map(float, fork.utilities.mean(axis=1)), strict=True)),
            noise=noise[fork.task],
        )
        for fork in forks
    ]
