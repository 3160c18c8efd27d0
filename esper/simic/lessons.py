"""What forks teach, as experience for the trainer: the graph that was seen, and what each tried action came to.

Distilled straight from what the actions came to, or from an ensemble's lower bounds: then every action has a worth, and
none that nobody tried enough is better than the heuristic's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import torch

from esper.simic.experience import Experience, Provenance
from esper.simic.q_ensemble import Ensemble, ForkedState
from esper.tamiyo import graph
from esper.tamiyo.actions import EVERYTHING, legal_actions
from esper.tamiyo.policies import heuristic


def lessons(states: Iterable[ForkedState], ensemble: Ensemble | None = None) -> list[Experience]:
    """An experience for each state; with an `ensemble` its lower bounds over the heuristic's choice are the utilities.

    What was not tried has none (NaN), so it is neither imitated nor avoided.
    """
    return [_lesson(state, ensemble) for state in states]


def _lesson(state: ForkedState, ensemble: Ensemble | None) -> Experience:
    seen = state.observation
    actions, mask = legal_actions(seen, EVERYTHING)
    known = {str(action): at for at, action in enumerate(actions)}
    utilities = torch.full((len(actions),), math.nan)
    if ensemble is None:
        for name, worth in state.utilities.items():
            if name in known:
                utilities[known[name]] = worth
    else:
        own = heuristic.advise(seen, actions, mask)
        choice = max((at for at, legal in enumerate(mask) if legal), key=lambda at: own.logits[at])
        bounds = state.noise * np.clip(ensemble.lower_bounds(seen, actions, choice), -50.0, 50.0)
        utilities = torch.where(torch.tensor(mask), torch.from_numpy(bounds).float(), torch.tensor(math.nan))
    best = int(torch.nan_to_num(utilities, nan=-math.inf).argmax())
    content = seen.SerializeToString(deterministic=True)
    return Experience(
        provenance=Provenance(
            decision_id=hashlib.sha256(state.run.encode() + content).digest()[:16],
            run_id=state.run,
            task=seen.state.experiment_name,
            epoch=seen.state.current_epoch,
            policy="forks",
            policy_version="" if ensemble is None else ensemble.policy.digest.hex()[:12],
        ),
        graph=graph.build(seen, actions).to_hetero(),
        mask=torch.tensor(mask),
        action=best,
        log_probability=0.0,
        reward=float(utilities[best]),
        ended=True,
        utilities=utilities,
    )
