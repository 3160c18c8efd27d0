"""The gates between a trained policy and its publication: each passes or says why not, and all of them must pass.

A candidate is compared with the policy that is live, case by case on the same cases, and what counts is the interval of
the differences (ruling 34): an absolute threshold of accuracy or loss says nothing over tasks. Seconds are recorded and
decide nothing (ruling 29).
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from esper.errors import EsperError, InvalidInput
from esper.leyline.signing import KeyRing, Signed
from esper.simic.chaos import SCENARIOS, Stage
from esper.simic.experience import Experience, batched
from esper.simic.judging import judge
from esper.simic.versions import Gate
from esper.tamiyo import weights
from esper.tamiyo.decide import decide
from esper.tamiyo.policies import learned

GATES: Final = ("performance", "safety", "regression", "chaos", "properties", "security")


@dataclass(frozen=True, slots=True)
class Paired:
    """One measure of the candidate and of the live policy on the same cases, in the cases' order.

    `cluster` says which cases belong together, such as states of one run: the interval is over clusters, not cases.
    """

    name: str
    candidate: Sequence[float]
    live: Sequence[float]
    higher_is_better: bool
    cluster: Sequence[str] = ()

    def gains(self) -> NDArray[np.float64]:
        """By how much the candidate is better, a value a cluster (the mean of its cases)."""
        if len(self.candidate) != len(self.live) or len(self.cluster) not in {0, len(self.live)} or not self.live:
            raise InvalidInput(
                f"{self.name}: {len(self.candidate)} values of the candidate, {len(self.live)} of the live policy and "
                f"{len(self.cluster)} clusters make no pairs"
            )
        sign = 1.0 if self.higher_is_better else -1.0
        gains = sign * (np.asarray(self.candidate, dtype=np.float64) - np.asarray(self.live, dtype=np.float64))
        if not self.cluster:
            return gains
        names = sorted(set(self.cluster))
        return np.array([gains[[one == name for one in self.cluster]].mean() for name in names])


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gates ask for.

    `least_gain` is what the interval of the differences in utility must lie above; `worst_change` the share by which
    any measure may be worse (R-SIM-30). The limits on a training's own figures are the prototype's (R-SIM-36).
    """

    least_gain: float = 0.0
    least_clusters: int = 5
    confidence: float = 0.95
    resamples: int = 2_000
    worst_change: float = 0.05
    most_bytes: int = 2 * 2**20
    limits: Mapping[str, float] = field(
        default_factory=lambda: {
            "simic.training.policy_loss": 5.0,
            "simic.training.value_loss": 50.0,
            "simic.training.param_loss": 5.0,
        }
    )
    least: Mapping[str, float] = field(default_factory=lambda: {"simic.training.entropy": 0.0})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a candidate is judged by.

    `utility` is what runs came to, `measures` whatever else must not be worse (FLOPs, parameters, failed runs);
    `training` the figures of its training; `corpus` and `observations` the decisions that it is tried on.
    """

    utility: Paired
    measures: Sequence[Paired]
    training: Mapping[str, float]
    corpus: Sequence[Experience]
    observations: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gates said, in their order."""

    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether all of them passed; a gate that was not asked has not."""
        return [gate.name for gate in self.gates] == list(GATES) and all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> list[str]:
        """The names of those that did not."""
        return [gate.name for gate in self.gates if not gate.passed] or ([] if self.passed else ["gates"])

    @property
    def reason(self) -> str:
        """Why it was rejected, one line; empty where it was not."""
        return "; ".join(f"{gate.name}: {gate.detail}" for gate in self.gates if not gate.passed)

    @property
    def figures(self) -> dict[str, float]:
        """Every gate's figures under its name."""
        return {f"{gate.name}.{name}": value for gate in self.gates for name, value in gate.figures.items()}


def validate(
    candidate: bytes,
    live: bytes | None,
    evidence: Evidence,
    *,
    ring: KeyRing,
    settings: GateSettings | None = None,
    monotonic: Callable[[], float],
) -> Verdict:
    """Ask all six gates about the weights `candidate`; `live` are those of the live policy, None where it has none.

    A gate that cannot be asked, because the weights do not load, has not passed.
    """
    chosen = settings or GateSettings()
    gates = {
        "performance": lambda: performance(evidence.utility, chosen),
        "safety": lambda: safety(candidate, live, evidence, chosen),
        "regression": lambda: regression([evidence.utility, *evidence.measures], chosen),
        "chaos": lambda: chaos(candidate, evidence, monotonic),
        "properties": lambda: properties(candidate, evidence),
        "security": lambda: security(candidate, ring, chosen),
    }
    return Verdict(tuple(_asked(name, gates[name]) for name in GATES))


def _asked(name: str, gate: Callable[[], Gate]) -> Gate:
    try:
        return gate()
    except EsperError as error:
        return Gate(name, passed=False, detail=str(error))


def interval(gains: NDArray[np.float64], settings: GateSettings) -> tuple[float, float, float]:
    """The mean of the gains and its bootstrap interval (percentiles over clusters), the same for the same gains."""
    draw = np.random.default_rng(0)
    rows = draw.integers(0, len(gains), (settings.resamples, len(gains)))
    tail = (1.0 - settings.confidence) / 2
    low, high = np.quantile(gains[rows].mean(axis=1), [tail, 1.0 - tail])
    return float(gains.mean()), float(low), float(high)


def performance(utility: Paired, settings: GateSettings) -> Gate:
    """Whether what runs come to is better, with the interval of the paired differences above `least_gain`."""
    gains = utility.gains()
    mean, low, high = interval(gains, settings)
    figures = {"gain": mean, "low": low, "high": high, "clusters": float(len(gains))}
    if len(gains) < settings.least_clusters:
        detail = f"{len(gains)} runs are too few to compare by; {settings.least_clusters} at least"
        return Gate("performance", passed=False, detail=detail, figures=figures)
    said = f"{utility.name} {mean:+.4f} ({low:+.4f} to {high:+.4f}) over {len(gains)} runs"
    passed = low > settings.least_gain
    return Gate("performance", passed, said if passed else f"{said}: not above {settings.least_gain:g}", figures)


def regression(measures: Sequence[Paired], settings: GateSettings) -> Gate:
    """Whether no measure is worse by more than the share allowed of what the live policy has, by its own direction."""
    figures, worse = {}, []
    for measure in measures:
        base = abs(float(np.mean(np.asarray(measure.live, dtype=np.float64))))
        change = float(measure.gains().mean()) / max(base, 1e-9)
        figures[measure.name] = change
        if not change >= -settings.worst_change:
            worse.append(f"{measure.name} is {-change:.1%} worse")
    detail = ", ".join(worse) or f"none of {len(measures)} measures is more than {settings.worst_change:.0%} worse"
    return Gate("regression", not worse, detail, figures)


def safety(candidate: bytes, live: bytes | None, evidence: Evidence, settings: GateSettings) -> Gate:
    """Whether its training went within limits, it asks for nothing out of bounds, and one can go back from it."""
    wrong = [
        f"{name} is {evidence.training[name]:.3g}"
        for limits, good in ((settings.limits, float.__le__), (settings.least, float.__ge__))
        for name, limit in limits.items()
        if name in evidence.training and not good(float(evidence.training[name]), float(limit))
    ]
    network = weights.load(candidate).network
    with torch.inference_mode():
        outputs = network(batched(evidence.corpus))
    if not bool((outputs.params.abs() <= 1.0).all()):
        wrong.append("a parameter is out of [-1, 1]")
    if not bool((outputs.schedule[:, 0] <= outputs.schedule[:, 1]).all()):
        wrong.append("a schedule ends before it begins")
    if live is not None:
        weights.load(live)  # what a rollback goes back to can be loaded
    count = sum(each.numel() for each in network.parameters())
    figures = {"parameters": float(count), "bytes": float(len(candidate))}
    return Gate("safety", not wrong, "; ".join(wrong) or "within its limits, and one can go back from it", figures)


def chaos(candidate: bytes, evidence: Evidence, monotonic: Callable[[], float]) -> Gate:
    """Whether it is the same policy after each of six kinds of trouble; how long that took is recorded."""
    figures, failed = {}, []
    for name, scenario in SCENARIOS.items():
        started = monotonic()
        problem = scenario(Stage(candidate, evidence.corpus, evidence.observations))
        figures[f"{name}_s"] = monotonic() - started
        if problem:
            failed.append(f"{name}: {problem}")
    return Gate("chaos", not failed, "; ".join(failed) or f"recovers from {', '.join(SCENARIOS)}", figures)


def properties(candidate: bytes, evidence: Evidence) -> Gate:
    """Whether outputs are finite, chances sum to 1 over what is legal, and every decision is a legal one."""
    loaded = weights.load(candidate)
    policy = learned.policy(loaded)
    wrong = []
    with torch.inference_mode():
        judged = judge(loaded.network, evidence.corpus).judged
    chances = judged.choice.probabilities
    if not bool(chances.isfinite().all() and judged.values.isfinite().all()):
        wrong.append("an output is no finite number")
    elif float((chances.sum(-1) - 1).abs().max()) > 1e-5:
        wrong.append("chances do not sum to 1")
    for observation in evidence.observations:
        decision, again = decide(observation, policy, 0.5), decide(observation, policy, 0.5)
        if not decision.mask[decision.action] or not math.isfinite(decision.value_estimate):
            wrong.append(f"it decides {decision.chosen}, which is not legal")
        if decision.action != again.action or decision.logits != again.logits:
            wrong.append("it decides otherwise the second time")
    figures = {"decisions": float(len(evidence.observations)), "states": float(len(evidence.corpus))}
    return Gate("properties", not wrong, "; ".join(wrong[:3]) or "finite, legal and the same each time", figures)


def security(candidate: bytes, ring: KeyRing, settings: GateSettings) -> Gate:
    """Whether the weights are safetensors of bounded size, and what is pickled, altered or unsigned is refused."""
    wrong = []
    if len(candidate) > settings.most_bytes:
        wrong.append(f"{len(candidate)} bytes, and {settings.most_bytes} may be published")
    loaded = weights.load(candidate)
    pickled = io.BytesIO()
    torch.save(loaded.network.state_dict(), pickled)
    for name, payload in (
        ("a pickled state", pickled.getvalue()),
        ("a pickle", pickle.dumps({"weights": 1})),
        ("half the file", candidate[: len(candidate) // 2]),
    ):
        try:
            weights.load(payload)
        except weights.Refused:
            continue
        wrong.append(f"{name} was loaded as weights")
    update = loaded.ref.encode()
    signature = ring.sign(update)
    for name, signed in (
        ("an unsigned update", Signed(update, None, None)),
        ("an altered update", Signed(update + b"0", signature.key_id, signature.signature)),
    ):
        if ring.verify(signed, 0) is None:
            wrong.append(f"{name} was taken for signed")
    return Gate("security", not wrong, "; ".join(wrong) or "safetensors, signed, nothing unpickled")
