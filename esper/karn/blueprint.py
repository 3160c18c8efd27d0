"""A blueprint's facts from the catalogue's table, and its bounded settings; without torch, so that readers start fast.

Facts (ids, names, tiers, stages, risks, bounds) are those of the catalogue's table; cost is never declared here but
measured by building the module (`esper.karn.catalogue`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from esper.errors import InvalidInput

ShapeKind = Literal["vector", "image", "token"]
Tier = Literal["safe", "experimental", "high_risk"]

ALL_KINDS: Final[tuple[ShapeKind, ...]] = ("vector", "image", "token")


@dataclass(frozen=True, slots=True)
class SiteShape:
    """One sample's activation: vector (features), image (channels, height, width) or token (tokens, features)."""

    kind: ShapeKind
    shape: tuple[int, ...]

    @property
    def features(self) -> int:
        """The axis that a seed mixes: channels of an image, features of a vector or a token."""
        return self.shape[1] if self.kind == "token" else self.shape[0]


@dataclass(frozen=True, slots=True)
class WidthShape:
    """A place where a host can become wider, as a template sees it; what a `WidthPlace` of the contracts says.

    `incoming` is the shape of the weights that lead into one unit: (features,), or (channels, *kernel). `outgoing` is
    the shape of the consumer's weights behind one unit: (outputs, inputs of the unit, *kernel). New units come in
    multiples of `group`; `running` has an entry for each norm between, whether it keeps running statistics. The
    producer has `sections` rows for each unit, first all of the first section: 3 where the units are the features of
    attention heads (queries, keys, values) and `group` is the size of a head, else 1.
    """

    units: int
    incoming: tuple[int, ...]
    outgoing: tuple[int, ...]
    bias: bool
    group: int = 1
    running: tuple[bool, ...] = ()
    parameters_per_unit: int = 0
    flops_per_unit: int = 0
    sections: int = 1

    def new_units(self, factor: float) -> int:
        """How many units a layer gets that becomes wider by `factor` of what it has: whole groups, one at least."""
        return self.group * max(1, round(factor * self.units / self.group))


@dataclass(frozen=True, slots=True)
class Setting:
    """One bounded parameter of a blueprint; the bounds are inclusive, and `integer` ones take whole numbers only."""

    name: str
    minimum: float
    maximum: float
    default: float
    integer: bool = False

    def check(self, blueprint: str, value: float) -> float:
        """`value`, as a whole number where it must be one.

        Commands carry 32-bit floats, so a bound is met when it is met in that precision; the result is then the bound.
        Raises InvalidInput for NaN, a value outside the bounds, or a fraction where a whole number is meant.
        """
        if math.isnan(value) or not _single(self.minimum) <= _single(value) <= _single(self.maximum):
            raise InvalidInput(
                f"{blueprint} {self.name} = {value:g} is outside [{self.minimum:g}, {self.maximum:g}]; "
                f"the default is {self.default:g}"
            )
        if self.integer and value != round(value):
            raise InvalidInput(f"{blueprint} {self.name} = {value:g} must be a whole number")
        return min(max(value, self.minimum), self.maximum)


Settings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the catalogue's table says of a template. `kinds` are the site shapes that it serves.

    `tags` say what family it is of: what people search by. One that makes the host wider serves no activation, so its
    `kinds` are empty: it serves the places that a task names with a consumer and that have as many `sections`.
    """

    blueprint_id: str
    name: str
    family: str
    stage: int
    risk: float
    description: str
    kinds: tuple[ShapeKind, ...] = ALL_KINDS
    settings: tuple[Setting, ...] = ()
    tier: Tier = "safe"
    tags: tuple[str, ...] = ()
    sections: int = 1

    @property
    def full_name(self) -> str:
        """Its name with its id behind it, as people read it: residual_block (BP009)."""
        return f"{self.name} ({self.blueprint_id})"

    @property
    def widens(self) -> bool:
        """Whether it makes a layer of the host wider, rather than putting a module behind it."""
        return self.family == "width"

    def serves(self, place: SiteShape | WidthShape) -> bool:
        """Whether it can grow there."""
        if isinstance(place, WidthShape):
            return self.widens and self.sections == place.sections
        return place.kind in self.kinds

    @property
    def served(self) -> str:
        """What it serves, in words."""
        wider = "attention that can have more heads" if self.sections > 1 else "places where the host can become wider"
        return wider if self.widens else ", ".join(self.kinds)

    @property
    def approval_required(self) -> bool:
        """Whether a recorded approval must exist before it may be used."""
        return self.tier != "safe"

    @property
    def quarantine_only(self) -> bool:
        """Whether it may be built inside a quarantine drill only."""
        return self.tier == "high_risk"

    def require(self, given: Settings) -> dict[str, float]:
        """The settings of a request that names this blueprint: every one must be given (R-KARN-6).

        Raises InvalidInput for one that is missing, and as `resolve` does.
        """
        missing = [setting for setting in self.settings if setting.name not in given]
        if missing:
            wanted = ", ".join(f"{s.name} in [{s.minimum:g}, {s.maximum:g}]" for s in missing)
            raise InvalidInput(f"{self.blueprint_id} {self.name} also needs {wanted}")
        return self.resolve(given)

    def resolve(self, given: Settings) -> dict[str, float]:
        """The complete settings: what is given, checked, and the default of everything else.

        Raises InvalidInput for a setting that this blueprint does not have, and as `Setting.check` does.
        """
        known = {setting.name for setting in self.settings}
        for name in given:
            if name not in known:
                has = ", ".join(sorted(known)) or "none"
                raise InvalidInput(f"{self.blueprint_id} has no setting {name!r}; it has {has}")
        return {
            setting.name: setting.check(self.blueprint_id, given.get(setting.name, setting.default))
            for setting in self.settings
        }


def _single(value: float) -> float:
    """The nearest 32-bit float; infinite where there is none."""
    try:
        single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single
