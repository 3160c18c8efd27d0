"""What the heuristic does about a live seed: cull, fossilize or wait, and why."""

from __future__ import annotations

import math

from contracts.leyline.v1.event_pb2 import EpochCompleted, SeedObservation
from esper.kasmina.lifecycle import MIXED, PROBATIONARY, name
from esper.tamiyo.policies.thresholds import SETTINGS, known


def verdict(state: EpochCompleted, seed: SeedObservation) -> tuple[str, str]:
    """What to do with a live seed, cull, fossilize or wait, and why."""
    where = f"{seed.seed_id} ({seed.blueprint_id}) is {name(seed.stage)}"
    if seed.isolation_violations > 0:
        return "cull", f"{where} and leaked into the host {seed.isolation_violations} times"
    if state.lifecycle == "swift":
        return "wait", f"{where}{_changed(seed)}"
    if seed.stage not in MIXED:
        return "wait", f"{where} and not part of the network yet"
    loss = state.state.validation_loss
    drift_z = SETTINGS.regression_z if seed.stage == PROBATIONARY else SETTINGS.drift_z
    if not known(loss) <= known(seed.loss_before) + drift_z * known(state.probe_loss_stderr):
        return "cull", f"{where} and the probe loss is {loss:.3f}, worse than {seed.loss_before:.3f} before it"
    if not seed.HasField("contribution"):
        return "wait", f"{where} and its contribution is not measured yet"
    verb, worth = _worth(seed)
    return verb, f"{where}: {worth}"


def _changed(seed: SeedObservation) -> str:
    """What a seed that is proven by itself has done so far, in words."""
    if not seed.HasField("change"):
        return " and has yet to prove itself"
    return f": since it germinated the probe loss has changed by {seed.change:+.4f} ± {seed.change_stderr:.4f}"


def _worth(seed: SeedObservation) -> tuple[str, str]:
    """The same by the seed's measured contribution alone."""
    worth = f"without it the probe loss would be {seed.contribution:+.4f} ± {seed.contribution_stderr:.4f}"
    if not known(seed.contribution) >= -SETTINGS.harm_z * known(seed.contribution_stderr):
        unknown = math.isinf(seed.contribution) or math.isinf(seed.contribution_stderr)
        return "cull", f"{worth}, which is no figure to go by" if unknown else f"{worth}, so it harms"
    proved = seed.contribution > SETTINGS.benefit_z * seed.contribution_stderr
    if seed.stage == PROBATIONARY and seed.gate_ready and proved:
        return "fossilize", f"{worth} and the loss is not above that before it, so it has proved itself"
    return "wait", worth
