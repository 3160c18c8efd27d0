"""When the heuristic lets nothing grow, and why: the place in the run, and a network that is big enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contracts.leyline.v1.event_pb2 import EpochCompleted, SeedObservation
from esper.tamiyo.policies.thresholds import SETTINGS, SWIFT, SwiftSettings, known


def obstacle(state: EpochCompleted, live: Sequence[SeedObservation], limits: SwiftSettings = SWIFT) -> str:
    """Why nothing should germinate now; empty where something should. One seed at a time, but in `swift`."""
    epoch, total, swift = state.state.current_epoch, max(1, state.epochs_total), state.lifecycle == "swift"
    if closed := ", ".join(seed.seed_id for seed in state.seeds if seed.closed):
        return f"the network is big enough: a proof failed at {closed}"
    if live and not swift:
        return f"{live[0].seed_id} has to prove itself first"
    return _wrong_time(state, epoch, total, swift=swift) or big_enough(state, limits)


def _wrong_time(state: EpochCompleted, epoch: int, total: int, *, swift: bool) -> str:
    if epoch < max(1.0, (SWIFT.swift_earliest_share if swift else SETTINGS.warm_up_share) * total):
        return f"epoch {epoch} of {total} is too early to judge the network"
    if epoch > (SWIFT.swift_latest_share if swift else SETTINGS.latest_share) * total:
        return f"epoch {epoch} of {total} is too late for a seed to repay itself"
    if swift and 0 < state.decay_from_epoch <= epoch + 1:
        return f"the learning rate falls from epoch {state.decay_from_epoch} on: what is new could not learn any more"
    if state.epochs_since_structural_change < SETTINGS.settled_epochs:
        return "the network has just changed"
    return ""


def big_enough(state: EpochCompleted, limits: SwiftSettings = SWIFT) -> str:
    """Why the network needs no growth; empty where it does."""
    accuracy, training = known(state.state.validation_accuracy), known(state.state.training_loss)
    probe = known(state.state.validation_loss)
    swift = state.lifecycle == "swift"
    if accuracy >= (limits.swift_enough_accuracy if swift else SETTINGS.enough_accuracy):
        return f"the network is big enough: right on {accuracy:.1%} of the probe set"
    if training < SETTINGS.overfit_ratio * probe:
        return f"the network is big enough: its training loss {training:.3f} is far below its probe loss {probe:.3f}"
    if swift and _runs_away(training, probe, known(state.probe_loss_stderr)):
        return (
            f"the network is big enough: its training loss {training:.3f} runs away from its probe loss {probe:.3f} ± "
            f"{state.probe_loss_stderr:.3f}"
        )
    left = (1.0 - pace(state)) ** (state.epochs_total - state.state.current_epoch)
    if left < SETTINGS.enough_projected:
        return f"the network learns fast as it is: {pace(state):.0%} of its loss an epoch"
    return ""


def _runs_away(training: float, probe: float, stderr: float) -> bool:
    """Whether what the network still learns is the training set rather than the problem."""
    return training < min(SWIFT.swift_overfit_ratio * probe, probe - SWIFT.swift_overfit_z * stderr)


def pace(state: EpochCompleted) -> float:
    """The share of the probe loss that one more epoch takes off if the last ones are a guide; 0 where it rises."""
    recent = [known(loss) for loss in state.probe_loss_history[-5:]]
    if len(recent) < 2 or not recent[0] > 0.0 or not recent[-1] > 0.0:
        return 0.0
    gain = 1.0 - (recent[-1] / recent[0]) ** (1.0 / (len(recent) - 1))
    return max(0.0, gain) if math.isfinite(gain) else 0.0
