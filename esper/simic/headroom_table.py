"""What the rows of a measurement come to: how much better than the heuristic's choice any choice could be.

The best of a fork's actions is chosen on one order of data and scored on another. Chosen and scored on the same it is
the noise's maximum, and any policy at all would seem to have headroom; that figure is told beside it as the warning it
is. Gains are in standard deviations of the noise: the spread of one action's utility over orders of data, pooled over a
task's states. Intervals are bootstrapped over runs, as two states of one run are no two experiments.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esper.simic.ledger import Key, Ledger, Row
from esper.simic.states import NOTHING
from esper.simic.utility import PRICE, PRICES, Ending, utility

RESAMPLES: Final = 2000
ARMS: Final = ("best of fork", "its own noise's maximum", "random", "nothing")
BEST, MAXIMUM, RANDOM, WAITING = ARMS
NEEDED: Final = 2.0
"""Standard deviations of the noise by which the best of a fork must be better, or no policy is worth training."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fork:
    """A state with the utility of every action, (actions, orders), at one price; `chosen` and the rest index them."""

    task: str
    seed: int
    epoch: int
    actions: Sequence[str]
    utilities: Floats
    chosen: int
    drawn: Sequence[int]

    @property
    def variance(self) -> float:
        """Of the noise: the mean over actions of the variance over orders."""
        return float(self.utilities.var(axis=1, ddof=1).mean())

    def gains(self) -> dict[str, float]:
        """By how much each arm is better than the action that the heuristic took."""
        own, nothing = self.utilities[self.chosen].mean(), self.utilities[self.actions.index(NOTHING)].mean()
        drawn = self.utilities[list(self.drawn)].mean() if self.drawn else nothing
        worth = {
            BEST: float(np.mean([self.utilities[best, order] for order, best in enumerate(self.best())])),
            MAXIMUM: float(self.utilities.max(axis=0).mean()),
            RANDOM: 0.5 * (nothing + drawn),
            WAITING: nothing,
        }
        return {arm: float(each - own) for arm, each in worth.items()}

    def best(self) -> list[int]:
        """For each order the action that is best over all the others."""
        rest = (self.utilities.sum(axis=1, keepdims=True) - self.utilities) / (self.utilities.shape[1] - 1)
        return [int(each) for each in rest.argmax(axis=0)]


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean gain in deviations of the noise, with its 95 % interval over runs."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Table:
    """All that is told. `tasks` maps each task, and "all", to its arms; `curve` the price to the gain of the best."""

    price: float
    states: int
    runs: int
    rollouts: int
    acting: int
    tasks: Mapping[str, Mapping[str, Gain]]
    counts: Mapping[str, tuple[int, int]]
    noise: Mapping[str, float]
    curve: Mapping[float, Gain]
    better: Mapping[str, int]
    """How often each kind of action was the best of its fork, over all states and orders."""

    by_choice: Mapping[str, Gain]
    """The gain of the best where the heuristic acted, and where it waited."""

    @property
    def enough(self) -> bool:
        """Whether there is something to win: the best of a fork is clearly better, by so many deviations."""
        return self.tasks["all"][BEST].mean >= NEEDED

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "price": self.price,
            "states": self.states,
            "runs": self.runs,
            "rollouts": self.rollouts,
            "states_acted_at": self.acting,
            "needed_sd": NEEDED,
            "enough": self.enough,
            "gain_over_heuristic_sd": {
                task: {arm: _plain(gain) for arm, gain in arms.items()} for task, arms in self.tasks.items()
            },
            "states_and_runs": {task: list(count) for task, count in self.counts.items()},
            "noise_sd": dict(self.noise),
            "best_by_price": {str(price): _plain(gain) for price, gain in self.curve.items()},
            "best_actions": dict(self.better),
            "best_where_heuristic": {where: _plain(gain) for where, gain in self.by_choice.items()},
        }


def forks_of(ledger: Ledger, price: float) -> list[Fork]:
    """Every state of which all rollouts are there, at a price; one that broke off is worth as little as the worst."""
    found = []
    by_state: dict[tuple[str, int, int], dict[tuple[str, int], Row]] = defaultdict(dict)
    for row in ledger.of("rollout"):
        by_state[row["task"], row["seed"], row["epoch"]][row["action"], row["order"]] = row
    for state in ledger.of("state"):
        place = (state["task"], state["seed"], state["epoch"])
        names, rows = [each["action"] for each in state["actions"]], by_state[place]
        orders = sorted({order for _, order in rows})
        whole = [order for order in orders if all((name, order) in rows for name in names)]
        control = ledger.find(Key("control", *place[:2]))
        if len(whole) < 2 or control is None:
            continue
        table = np.array([[_worth(rows[name, order], control, price) for order in whole] for name in names])
        table = np.where(np.isfinite(table), table, np.nanmin(np.where(np.isfinite(table), table, np.nan)))
        drawn = [number for number, each in enumerate(state["actions"]) if each["drawn"]]
        found.append(Fork(*place, names, table, names.index(state["chosen"]), drawn))
    return found


def _worth(row: Row, control: Row, price: float) -> float:
    return utility(ending_of(row), control["training_flops"], price)


def ending_of(row: Row) -> Ending:
    """What the run of a row came to."""
    return Ending(**{name: row[name] for name in Ending.__slots__})


def table_of(ledger: Ledger, price: float = PRICE) -> Table | None:
    """The table at a price; None while no state is whole."""
    forks = forks_of(ledger, price)
    if not forks:
        return None
    noise, names = noise_of(forks), sorted({fork.task for fork in forks})
    acting = [fork for fork in forks if fork.actions[fork.chosen] != NOTHING]
    waiting = [fork for fork in forks if fork.actions[fork.chosen] == NOTHING]
    of = {name: [fork for fork in forks if fork.task == name] for name in names} | {"all": forks}
    kinds = Counter(fork.actions[best].split()[0] for fork in forks for best in fork.best())
    curves = {each: forks_of(ledger, each) for each in PRICES}
    return Table(
        price=price,
        states=len(forks),
        runs=len({(fork.task, fork.seed) for fork in forks}),
        rollouts=sum(fork.utilities.size for fork in forks),
        acting=len(acting),
        tasks={name: {arm: gain_of(these, noise, arm) for arm in ARMS} for name, these in of.items()},
        counts={name: (len(these), len({(each.task, each.seed) for each in these})) for name, these in of.items()},
        noise=noise,
        curve={each: gain_of(at, noise_of(at), BEST) for each, at in curves.items()},
        better=dict(kinds.most_common()),
        by_choice={
            where: gain_of(these, noise, BEST) for where, these in (("acted", acting), ("waited", waiting)) if these
        },
    )


def noise_of(forks: Sequence[Fork]) -> dict[str, float]:
    """The standard deviation of the noise by task, pooled over its states."""
    variances: dict[str, list[float]] = defaultdict(list)
    for fork in forks:
        variances[fork.task].append(fork.variance)
    return {task: float(np.sqrt(np.mean(each))) for task, each in variances.items()}


def gain_of(forks: Sequence[Fork], noise: Mapping[str, float], arm: str) -> Gain:
    """The mean over tasks of the mean over runs of the mean over states, as every task and run counts alike."""
    runs: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fork in forks:
        spread = noise[fork.task] or 1.0
        runs[fork.task][fork.seed].append(fork.gains()[arm] / spread)
    means = [np.array([np.mean(states) for states in of.values()]) for of in runs.values()]
    mean = float(np.mean([each.mean() for each in means]))
    return Gain(mean, *interval(means, lambda drawn: float(np.mean([each.mean() for each in drawn]))))


def interval(groups: Sequence[Floats], statistic: Callable[[Sequence[Floats]], float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic of groups of independent figures, which are drawn within each group.

    With one figure in every group nothing can be said: NaN.
    """
    if all(len(each) < 2 for each in groups):
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0)
    found = [statistic([drawn.choice(each, len(each)) for each in groups]) for _ in range(RESAMPLES)]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def _plain(gain: Gain) -> list[float]:
    return [gain.mean, gain.low, gain.high]
