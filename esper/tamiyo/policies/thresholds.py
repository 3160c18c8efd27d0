"""Every threshold of the heuristic. Shares are of the run's epochs; a z is a multiple of a standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the `careful` and the `direct` lifecycle, as versions 2 and 3 have them."""

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


@dataclass(frozen=True, slots=True)
class SwiftSettings:
    """Of the `swift` lifecycle, where seeds are inserted first and proven afterwards; what it lacks is as above."""

    swift_earliest_share: float = 0.2
    """No growth before: while a loss still falls by itself every seed passes its proof. At a tenth of the run 5 of 5
    runs of the noisy `tabn` kept seeds that cost them 0.35 nats, at a fifth 1 of 5."""
    swift_latest_share: float = 0.5
    """No growth after: the constant phase must last long enough for a seed to learn and to be proven in."""
    swift_overfit_ratio: float = 0.9
    """A training loss below this share of the probe loss, ..."""
    swift_overfit_z: float = 2.0
    """... and by more than this many standard errors below: training runs away from the probe set."""
    swift_enough_accuracy: float = 0.9
    """A network that is right this often is left alone: what is to come of the run sees to the rest. A big host of
    digits had 0.93 at a fifth of the run and 0.98 at its end, the one that gains by growing 0.85."""


@dataclass(frozen=True, slots=True)
class WidthSettings:
    """Where the host's own layers can become wider."""

    narrow_share: float = 0.4
    """A host is narrow while one of its layers uses this share of its units, by the effective rank of what it gives.
    Hosts of two layers that gained by doubling had 0.65 and 0.93, those that were eight times as wide 0.19 and 0.30."""
    alike_units: float = 0.85
    """Layers that use at least this share of what the narrowest uses are widened too, the others not: they gained
    nothing at 0.79."""
    shallow_layers: int = 1
    """A host with so few layers that could become wider lacks depth first: a stem and a head, as that of digits."""


SETTINGS: Final = Settings()
SWIFT: Final = SwiftSettings()
SWIFT_3: Final = SwiftSettings(swift_enough_accuracy=SETTINGS.enough_accuracy)
"""As version 3 of the heuristic had them."""
WIDTH: Final = WidthSettings()


def known(value: float) -> float:
    """A figure to compare with; one that is infinite is as little known as one that is no number."""
    return value if math.isfinite(value) else math.nan
