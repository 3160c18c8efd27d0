"""The heuristic policy: grow early, one seed at a time, where the loss pulls hardest, and only a network that needs it.

A live seed is looked after first. Without one, a network that still has time and still errs gets a seed at the site
with the strongest evidence, of the best blueprint for its shape that the budget allows. What the rules rest on was
measured and stands in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import EpochCompleted, SeedObservation, SiteDescription
from esper.kasmina.lifecycle import ALIVE, MIXED, PROBATIONARY, name
from esper.tamiyo.actions import Action
from esper.tamiyo.policies import merit
from esper.tamiyo.policies.merit import Merit, merits, why
from esper.tamiyo.policy import Advice, Policy


@dataclass(frozen=True, slots=True)
class Settings:
    """Every threshold of the policy. Shares are of the run's epochs; a z is a multiple of a standard error."""

    warm_up_share: float = 0.1
    """No growth before: until then every network errs and evidence is about the initial weights."""
    latest_share: float = 0.55
    """No growth after: a late seed cannot repay itself before the end."""
    settled_epochs: int = 1
    """Epochs that must have passed since the network's structure last changed."""
    enough_accuracy: float = 0.95
    """A network that is right this often on the probe set is big enough, and is left alone."""
    enough_projected: float = 0.002
    """A network is left alone while the pace of its last epochs would leave less than this share of its loss."""
    alike: float = 0.85
    """Sites whose evidence is at least this share of the strongest count as equal; ..."""
    alike_tokens: float = 0.7
    """... over tokens, where the evidence tells less: it was highest at an embedding, the place that gained least."""
    least_pull: float = 0.2
    """No growth at a site with less of the strongest site's evidence, culls counted."""
    overfit_ratio: float = 0.5
    """Below this ratio of training to probe loss a network has more capacity than its data can fill."""
    benefit_z: float = 1.0
    """A seed has proved itself when switching it off costs more than this many standard errors, and ..."""
    regression_z: float = 1.0
    """... the probe loss is not above that before it by more than this many."""
    harm_z: float = 2.0
    """A seed harms when switching it off gains more than this many standard errors."""
    drift_z: float = 2.0
    """A seed is given up when the probe loss has risen by more than this many since it germinated."""


SETTINGS: Final = Settings()


def advise(state: EpochCompleted, actions: Sequence[Action], mask: Sequence[bool]) -> Advice:
    """A logit above 0 for what is better than nothing, and the reason for each action."""
    live = [seed for seed in state.seeds if seed.stage in ALIVE]
    logits = [0.0] * len(actions)
    verdicts = {seed.seed_id: _verdict(state, seed) for seed in live}
    obstacle = "" if any(action.kind == "germinate" for action in actions) else "no slot is free"
    obstacle = obstacle or _obstacle(state, live)
    pull = _pull(state)
    sites = {site.seed_id: site for site in state.sites}
    worths = {site.seed_id: merits(site) for site in state.sites}
    places = {site.seed_id: 0.1 * _place(state, site) for site in state.sites}
    for index, action in enumerate(actions):
        if action.kind == "germinate":
            worth = worths[action.seed_id][action.blueprint_id]
            score = 1.0 + 2.0 * pull[action.seed_id] + places[action.seed_id] + worth.score
            fits = mask[index] and worth.merit > 0.0 and pull[action.seed_id] >= SETTINGS.least_pull
            logits[index] = score if fits and not obstacle else -1.0
        elif action.kind in ("cull", "fossilize"):
            logits[index] = 5.0 if verdicts[action.seed_id][0] == action.kind and mask[index] else -1.0

    def reason(index: int) -> str:
        action = actions[index]
        if action.kind == "germinate":
            worth = worths[action.seed_id][action.blueprint_id]
            return _why_germinate(state, sites[action.seed_id], action, pull[action.seed_id], worth)
        if action.kind in ("cull", "fossilize"):
            return verdicts[action.seed_id][1]
        return (
            "; ".join(sentence for _, sentence in verdicts.values())
            or obstacle
            or "no free site has both strong evidence and a blueprint that fits the budget"
        )

    return Advice(logits, reason, _pace(state))


def _verdict(state: EpochCompleted, seed: SeedObservation) -> tuple[str, str]:
    """What to do with a live seed, cull, fossilize or wait, and why."""
    where = f"{seed.seed_id} ({seed.blueprint_id}) is {name(seed.stage)}"
    if seed.isolation_violations > 0:
        return "cull", f"{where} and leaked into the host {seed.isolation_violations} times"
    if seed.stage not in MIXED:
        return "wait", f"{where} and not part of the network yet"
    loss = state.state.validation_loss
    drift_z = SETTINGS.regression_z if seed.stage == PROBATIONARY else SETTINGS.drift_z
    if not _known(loss) <= _known(seed.loss_before) + drift_z * _known(state.probe_loss_stderr):
        return "cull", f"{where} and the probe loss is {loss:.3f}, worse than {seed.loss_before:.3f} before it"
    if not seed.HasField("contribution"):
        return "wait", f"{where} and its contribution is not measured yet"
    verb, worth = _worth(seed)
    return verb, f"{where}: {worth}"


def _worth(seed: SeedObservation) -> tuple[str, str]:
    """The same by the seed's measured contribution alone."""
    worth = f"without it the probe loss would be {seed.contribution:+.4f} ± {seed.contribution_stderr:.4f}"
    if not _known(seed.contribution) >= -SETTINGS.harm_z * _known(seed.contribution_stderr):
        unknown = math.isinf(seed.contribution) or math.isinf(seed.contribution_stderr)
        return "cull", f"{worth}, which is no figure to go by" if unknown else f"{worth}, so it harms"
    proved = seed.contribution > SETTINGS.benefit_z * seed.contribution_stderr
    if seed.stage == PROBATIONARY and seed.gate_ready and proved:
        return "fossilize", f"{worth} and the loss is not above that before it, so it has proved itself"
    return "wait", worth


def _obstacle(state: EpochCompleted, live: Sequence[SeedObservation]) -> str:
    """Why nothing should germinate now; empty where something should."""
    epoch, total = state.state.current_epoch, max(1, state.epochs_total)
    if live:
        return f"{live[0].seed_id} has to prove itself first"
    if epoch < max(1.0, SETTINGS.warm_up_share * total):
        return f"epoch {epoch} of {total} is too early to judge the network"
    if epoch > SETTINGS.latest_share * total:
        return f"epoch {epoch} of {total} is too late for a seed to repay itself"
    if state.epochs_since_structural_change < SETTINGS.settled_epochs:
        return "the network has just changed"
    return _big_enough(state)


def _big_enough(state: EpochCompleted) -> str:
    """Why the network needs no growth; empty where it does."""
    accuracy, training = _known(state.state.validation_accuracy), _known(state.state.training_loss)
    probe = _known(state.state.validation_loss)
    if accuracy >= SETTINGS.enough_accuracy:
        return f"the network is big enough: right on {accuracy:.1%} of the probe set"
    if training < SETTINGS.overfit_ratio * probe:
        return f"the network is big enough: its training loss {training:.3f} is far below its probe loss {probe:.3f}"
    left = (1.0 - _pace(state)) ** (state.epochs_total - state.state.current_epoch)
    if left < SETTINGS.enough_projected:
        return f"the network learns fast as it is: {_pace(state):.0%} of its loss an epoch"
    return ""


def _pull(state: EpochCompleted) -> dict[str, float]:
    """How strongly the loss pulls at each site, 0 to 1 of the strongest, halved by every cull there.

    The measure is |gradient| * |activation|: the change of the loss for a relative change of the activation, which does
    not depend on the scale that a layer happens to work at. Sites that are nearly as strong count as equal.
    """
    products = {row.seed_id: row.gradient_norm * row.activation_norm for row in state.evidence}
    strongest = max((value for value in products.values() if math.isfinite(value)), default=0.0)
    shares = {seed_id: value / strongest if strongest > 0.0 else 1.0 for seed_id, value in products.items()}
    culls = {seed.seed_id: seed.culls for seed in state.seeds}
    return {
        site.seed_id: _levelled(shares.get(site.seed_id, 0.0), site) * 0.5 ** culls.get(site.seed_id, 0)
        for site in state.sites
    }


def _levelled(share: float, site: SiteDescription) -> float:
    alike = SETTINGS.alike_tokens if site.shape_kind == "token" else SETTINGS.alike
    if not math.isfinite(share):
        return 0.0
    return 1.0 if share >= alike else max(0.0, share)


def _place(state: EpochCompleted, site: SiteDescription) -> float:
    """Which of two sites with equal evidence comes first, 0 to 1.

    Over tokens the later one: a block on top of a residual stream keeps what the blocks below it have learnt. Elsewhere
    the earlier one: what it adds reaches every layer after it.
    """
    deepest = max(1, *(other.depth for other in state.sites))
    return site.depth / deepest if site.shape_kind == "token" else 1.0 - site.depth / deepest


def _why_germinate(state: EpochCompleted, site: SiteDescription, action: Action, pull: float, worth: Merit) -> str:
    left = state.epochs_total - state.state.current_epoch
    return (
        f"right on {state.state.validation_accuracy:.1%} of the probe set with {left} epochs left; "
        f"site {site.site} has the strongest evidence ({pull:.2f}) and "
        f"{action.blueprint_id} fits its {site.shape_kind} shape {why(worth, site.shape_kind)}"
    )


def _known(value: float) -> float:
    """A figure to compare with; one that is infinite is as little known as one that is no number."""
    return value if math.isfinite(value) else math.nan


def _pace(state: EpochCompleted) -> float:
    """The share of the probe loss that one more epoch takes off if the last ones are a guide; 0 where it rises."""
    recent = [_known(loss) for loss in state.probe_loss_history[-5:]]
    if len(recent) < 2 or not recent[0] > 0.0 or not recent[-1] > 0.0:
        return 0.0
    gain = 1.0 - (recent[-1] / recent[0]) ** (1.0 / (len(recent) - 1))
    return max(0.0, gain) if math.isfinite(gain) else 0.0


HEURISTIC = Policy("heuristic", "2", greedy=True, advise=advise, settings=asdict(SETTINGS) | asdict(merit.SETTINGS))
