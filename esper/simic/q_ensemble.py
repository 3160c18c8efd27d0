"""A small ensemble that tells what an action is worth, fitted on forks; it acts where even its lower bound is better.

Each member is a perceptron on the features of a state and an action, fitted to runs drawn anew (a bootstrap over runs).
What it tells is by how much an action is better than doing nothing, in deviations of its task's noise. Against the
heuristic's own choice the members' differences are taken one by one: an action counts by their mean less `caution`
times what is not known of it, and where none is above 0 the heuristic decides. What is not known is the spread of the
members and the error on runs that a member was not fitted on, together: members that were fitted on much the same rows
agree on their noise too. So it is one step of policy improvement by rollouts, and cautious: where the forks say little,
nothing changes.

Needs numpy to decide and torch to be fitted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from contracts.leyline.v1.event_pb2 import EpochCompleted
from esper.errors import CorruptState, InvalidInput
from esper.tamiyo import features
from esper.tamiyo.actions import Action, legal_actions
from esper.tamiyo.graph import build
from esper.tamiyo.policies import heuristic
from esper.tamiyo.policy import Advice, Policy

Floats = NDArray[np.float64]
NAME: Final = "q-ensemble"
COLUMNS: Final = tuple(
    f"{node}.{name}" for node in ("global", "seed", "blueprint") for name in features.NODES[node]
) + tuple(f"action.{name}" for name in features.ACTION)
_METADATA: Final = "ensemble"


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is fitted: `steps` of Adam over all rows at once, with `decay` of the weights."""

    members: int = 8
    hidden: int = 32
    steps: int = 400
    rate: float = 1e-2
    decay: float = 1e-3
    caution: float = 1.5
    least_runs: int = 3
    """An action whose like (kind and blueprint) was tried in fewer runs than that is never taken: of many actions that
    nobody tried, the one that is overrated most would be."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.members, self.hidden, self.steps) < 1 or not self.rate > 0 or self.caution < 0:
            raise InvalidInput(f"an ensemble needs members, hidden and steps of 1 at least, not {self}")


@dataclass(frozen=True, slots=True)
class ForkedState:
    """What an ensemble learns from: a state, of which run, and what each tried action came to, in utility.

    `utilities` maps actions in words to their mean over orders of data; `noise` is the deviation of one such order.
    """

    run: str
    observation: EpochCompleted
    utilities: Mapping[str, float]
    noise: float


def rows_of(state: EpochCompleted, actions: Sequence[Action]) -> Floats:
    """The features of each action in that state, shape (actions, columns); what an action has no node of is 0."""
    graph = build(state, actions)
    table, count = graph.actions, len(actions)
    parts = [np.repeat(graph.x["global"], count, axis=0)]
    for node, index in (("seed", table.seed), ("blueprint", table.blueprint)):
        rows = np.concatenate([graph.x[node], np.zeros((1, len(features.NODES[node])), dtype=np.float32)])
        parts.append(rows[index])  # -1, which is none, is the last row
    return np.concatenate([*parts, table.x], axis=1).astype(np.float64)


class Ensemble:
    """The fitted members; two with the same `content` are the same."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], settings: Settings, told: Mapping[str, Any]) -> None:
        self.settings, self.told = settings, dict(told)
        self._tensors = dict(tensors)
        self._mean, self._scale = (tensors[name].astype(np.float64) for name in ("mean", "scale"))
        self._layers = [
            [tensors[f"{member}.{name}"].astype(np.float64) for name in ("w1", "b1", "w2")]
            for member in range(settings.members)
        ]

    def worths(self, state: EpochCompleted, actions: Sequence[Action]) -> Floats:
        """By how much each action is better than nothing, in deviations of the noise, shape (members, actions)."""
        rows = np.clip((rows_of(state, actions) - self._mean) / self._scale, -5.0, 5.0)
        found = np.stack([np.tanh(rows @ w1 + b1) @ w2 for w1, b1, w2 in self._layers])
        nothing: Floats = found[:, [next(at for at, each in enumerate(actions) if each.kind == "nothing")]]
        return found - nothing

    def lower_bounds(self, state: EpochCompleted, actions: Sequence[Action], against: int) -> Floats:
        """By how much each action is better than the one at `against`, cautiously; that one is exactly 0."""
        worths = self.worths(state, actions)
        better, least = worths - worths[:, [against]], self.settings.least_runs
        unknown = np.sqrt(better.var(axis=0) + float(self.told["error"]) ** 2)
        unknown[against] = 0.0
        bounds: Floats = better.mean(axis=0) - self.settings.caution * unknown
        tried: Mapping[str, int] = self.told["tried"]
        known = [at == against or tried.get(_like(each), 0) >= least for at, each in enumerate(map(str, actions))]
        return np.where(known, bounds, np.minimum(bounds, -1.0))

    def advise(self, state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
        """The lower bounds as logits: the heuristic's choice has 0, and is taken where no legal action has more."""
        own = heuristic.advise(state, actions, mask)
        choice = max((at for at, legal in enumerate(mask) if legal), key=lambda at: own.logits[at])
        bounds = self.lower_bounds(state, actions, choice)
        logits = [float(each) for each in np.where(np.asarray(mask), bounds, np.minimum(bounds, -1.0))]
        # Of equals the first is taken, and that has to be the heuristic's own.
        logits = [each if at == choice or each > 0.0 else each - 1e-6 for at, each in enumerate(logits)]

        def reason(index: int) -> str:
            if index == choice:
                return own.reason(index)
            return (
                f"forks of runs like this say that it is better than {actions[choice]} by {logits[index]:.2f} "
                "deviations of the noise at least"
            )

        return Advice(logits, reason, own.value_estimate)

    @property
    def content(self) -> bytes:
        """The file: safetensors with readable metadata."""
        told = {"settings": asdict(self.settings), "columns": COLUMNS, "told": self.told}
        return safetensors.numpy.save(self._tensors, metadata={_METADATA: json.dumps(told, sort_keys=True)})

    @property
    def policy(self) -> Policy:
        """It as a policy, whose digest is over the weights."""
        digest = hashlib.sha256(self.content).hexdigest()
        return Policy(NAME, "1", greedy=True, advise=self.advise, weights=digest)


def read(content: bytes) -> Ensemble:
    """The ensemble in a file's bytes. Raises CorruptState where it is none, InvalidInput where its features differ."""
    try:
        length = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
        tensors = safetensors.numpy.load(content)
        settings = Settings(**told["settings"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"this is no ensemble: {error}; fit one with forks") from None
    if tuple(told["columns"]) != COLUMNS:
        raise InvalidInput("the ensemble knows other features than this Esper's; fit it again")
    return Ensemble(tensors, settings, told["told"])


def fit(states: Iterable[ForkedState], settings: Settings | None = None) -> Ensemble:
    """Fit an ensemble on forks; the same states and settings give the same bytes on one machine.

    Raises InvalidInput where there are fewer than two runs, of which no member could be drawn otherwise.
    """
    import torch  # noqa: PLC0415 - deciding needs numpy alone

    chosen = settings or Settings()
    given = list(states)
    inputs, targets, runs = _table(given)
    names = sorted(set(runs))
    if len(names) < 2:
        raise InvalidInput(f"an ensemble needs the forks of two runs at least, and there are those of {len(names)}")
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-3)
    x, y = torch.from_numpy(np.clip((inputs - mean) / scale, -5, 5)).float(), torch.from_numpy(targets).float()
    tensors = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    drawn = np.random.default_rng(chosen.seed)
    of: NDArray[np.int64] = np.array([names.index(run) for run in runs])
    unseen: list[Floats] = []
    for member in range(chosen.members):
        counts = _counts(drawn, len(names))
        weight = torch.from_numpy(counts[of]).float()
        layers, wrong = _fit_one(x, y, weight, chosen, member)
        tensors |= {f"{member}.{name}": each for name, each in layers.items()}
        unseen.append(wrong[counts[of] == 0])
    error = float(np.sqrt(np.mean(np.concatenate(unseen) ** 2)))
    told = {"rows": len(runs), "runs": len(names), "error": error, "tried": _tried(given)}
    return Ensemble(tensors, chosen, told)


def _counts(drawn: np.random.Generator, runs: int) -> NDArray[np.int64]:
    """How often each run was drawn, of which at least one was not: on that one the member's error is known."""
    while True:
        counts = np.bincount(drawn.choice(runs, runs), minlength=runs)
        if counts.min() == 0:
            return counts


def _tried(states: Sequence[ForkedState]) -> dict[str, int]:
    """In how many runs each kind of action was tried."""
    pairs = {(_like(action), state.run) for state in states for action in state.utilities}
    return dict(sorted(Counter(like for like, _ in pairs).items()))


def _like(action: str) -> str:
    """Kind and blueprint of an action in words, wherever it is."""
    kind, *rest = action.split()
    return " ".join([kind, *rest[1:2]])


def _fit_one(
    x: Any, y: Any, weight: Any, chosen: Settings, member: int
) -> tuple[dict[str, NDArray[np.float32]], Floats]:
    """One member and its error on every row. Huber's loss, as a run that broke is no reason to forget all others."""
    import torch  # noqa: PLC0415

    made = torch.Generator().manual_seed(1000 * chosen.seed + member)
    w1 = torch.randn(x.shape[1], chosen.hidden, generator=made) / x.shape[1] ** 0.5
    b1 = torch.zeros(chosen.hidden)
    w2 = torch.randn(chosen.hidden, generator=made) / chosen.hidden**0.5
    learning = [each.requires_grad_() for each in (w1, b1, w2)]
    optimizer = torch.optim.AdamW(learning, lr=chosen.rate, weight_decay=chosen.decay)
    for _ in range(chosen.steps):
        optimizer.zero_grad()
        errors = torch.nn.functional.huber_loss(torch.tanh(x @ w1 + b1) @ w2, y, reduction="none")
        loss = (weight * errors).sum() / weight.sum()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        wrong = (torch.tanh(x @ w1 + b1) @ w2 - y).double().numpy()
    found = {name: each.detach().numpy() for name, each in zip(("w1", "b1", "w2"), learning, strict=True)}
    return found, wrong


def _table(states: Sequence[ForkedState]) -> tuple[Floats, Floats, list[str]]:
    """Rows, targets and the run of each row: what every action came to, less what doing nothing came to."""
    inputs, targets, runs = [], [], []
    for state in states:
        by_name = {str(action): action for action in legal_actions(state.observation)[0]}
        tried = [name for name in state.utilities if name in by_name]
        nothing = state.utilities["nothing"]
        inputs.append(rows_of(state.observation, [by_name[name] for name in tried]))
        targets += [(state.utilities[name] - nothing) / max(state.noise, 1e-9) for name in tried]
        runs += [state.run] * len(tried)
    if not runs:
        raise InvalidInput("there are no forks to fit an ensemble on; `esper learn headroom` makes some")
    return np.concatenate(inputs), np.clip(np.array(targets), -20.0, 20.0), runs
