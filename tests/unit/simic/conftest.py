"""A small corpus of states as packets have them, with what every action came to where that is simulated."""

from __future__ import annotations

import math
import random

import pytest
import torch

from contracts.leyline.v1.event_pb2 import (
    BlueprintOption,
    EpochCompleted,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from contracts.leyline.v1.leyline_pb2 import SystemStatePacket
from esper.kasmina.lifecycle import DORMANT
from esper.simic.experience import Experience, Provenance
from esper.tamiyo import graph
from esper.tamiyo.actions import legal_actions

OPTIONS = [
    BlueprintOption(blueprint_id=name, parameters=count, flops_per_sample=20 * count, risk=risk, residual=True)
    for name, count, risk in (("BP001", 16, 0.0), ("BP009", 170, 0.3), ("BP015", 26, 0.4))
]


def make_state(number: int) -> EpochCompleted:
    """A state that follows from its number; where loss is above 1 growing pays, by the site of most gradient."""
    draw = random.Random(number)
    loss = draw.uniform(0.4, 1.6)
    sites = 2 + number % 2
    return EpochCompleted(
        state=SystemStatePacket(
            version=1, current_epoch=2 + number % 9, validation_loss=loss, training_loss=loss, validation_accuracy=0.5
        ),
        seeds=[SeedObservation(seed_id=f"s{place}", stage=DORMANT) for place in range(sites)],
        evidence=[
            SiteEvidence(seed_id=f"s{place}", gradient_norm=draw.uniform(0.1, 1.0), activation_norm=5.0)
            for place in range(sites)
        ],
        sites=[
            SiteDescription(
                site=f"blocks.{place}",
                seed_id=f"s{place}",
                shape_kind="vector",
                shape=[8],
                depth=place,
                options=OPTIONS,
            )
            for place in range(sites)
        ],
        probe_loss_history=[loss + 0.2, loss + 0.1, loss],
        probe_loss_stderr=0.05,
        epochs_total=20,
        params=700,
        params_host=700,
        params_budget=500,
        policy="random",
        policy_seed=11,
        lifecycle="swift",
        rate_policy="wsd",
    )


def utilities_of(state: EpochCompleted, actions: list, mask: list[bool]) -> torch.Tensor:
    """What each action comes to in this made-up world."""
    loss = state.state.validation_loss
    gradients = {each.seed_id: each.gradient_norm for each in state.evidence}
    found = []
    for action, legal in zip(actions, mask, strict=True):
        gain = 0.0 if action.kind == "nothing" else (loss - 1.0) * gradients[action.seed_id]
        found.append(-loss + gain if legal else math.nan)
    return torch.tensor(found)


def make_experience(number: int, *, simulated: bool = True, run: str = "") -> Experience:
    state = make_state(number)
    actions, mask = legal_actions(state)
    open_ = torch.tensor(mask)
    known = utilities_of(state, actions, mask)
    legal = [index for index, one in enumerate(mask) if one]
    taken = random.Random(number + 1000).choice(legal)
    provenance = Provenance(
        number.to_bytes(16, "big"), run or f"run{number // 4}", "digits", number % 4, "random", "1", outcome=number % 5
    )
    return Experience(
        provenance,
        graph.build(state, actions).to_hetero(),
        open_,
        taken,
        -math.log(len(legal)),
        reward=0.0 if number % 4 != 3 else float(known[taken]),
        ended=number % 4 == 3,
        utilities=known if simulated else None,
    )


@pytest.fixture(scope="session")
def corpus() -> list[Experience]:
    return [make_experience(number) for number in range(24)]


@pytest.fixture(scope="session")
def lived() -> list[Experience]:
    """The same decisions without what their other actions would have come to."""
    return [make_experience(number, simulated=False) for number in range(24)]


@pytest.fixture(scope="session")
def observations() -> list[bytes]:
    """The same states as the bytes that a decider gets."""
    return [make_state(number).SerializeToString(deterministic=True) for number in range(24)]
