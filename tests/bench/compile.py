"""What compiling pays: python -m tests.bench.compile [ID ...], the whole safe tier, about twenty minutes on two cores.

Fixture: every safe template at its default settings, for one usual site of the first kind that it serves of image
(16x8x8), token (16x32) and vector (32), by the standard pipeline, in the forge's own child: one thread, low priority,
a compiler cache of its own, wall-clock and memory limits as in production. A figure of a pass is the median processor
time of twenty training passes (forward and backward) at batch 64. Compiling is wall-clock time, for both batch sizes
that a kernel is warmed at, with the compiler's cache empty. There is no limit to keep: on a CPU small kernels are often
faster eager, and the faster form is what serves.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from esper.cli.blueprints.catalogue import USUAL, shape_text
from esper.karn.blueprint import Blueprint, ShapeKind, SiteShape
from esper.karn.table import CATALOGUE
from esper.tezzeret.events import requested
from esper.tezzeret.jobs import Place, evolve, request
from esper.tezzeret.pipelines import DEFAULT, limits
from esper.tezzeret.results import Failure, Report, order_of
from streams.forge.child import compile_in_child
from tests.bench.table import Row

PREFERRED: Final[tuple[ShapeKind, ...]] = ("image", "token", "vector")
QUICK: Final = ("BP009", "BP016")
TABLE_HEADER: Final = (
    "| template | site | compiling | eager | compiled | eager / compiled | serves |\n|---|---|--:|--:|--:|--:|---|"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One template at one site: the child's report, or why there is none."""

    blueprint: Blueprint
    site: SiteShape
    outcome: Report | Failure

    @property
    def fixture(self) -> str:
        """The site in words."""
        return f"{self.site.kind} {shape_text(self.site.shape)}"

    @property
    def line(self) -> str:
        """A line of the Markdown table."""
        start = f"| {self.blueprint.blueprint_id} {self.blueprint.name} | {self.fixture}"
        if isinstance(self.outcome, Failure):
            return f"{start} | - | - | - | - | {self.outcome.reason} |"
        told = self.outcome
        if not told.compiled_us:
            return f"{start} | - | {told.eager_us:,.0f} µs | - | - | eager: {told.reason} |"
        ratio = told.eager_us / told.compiled_us
        times = f"{told.compile_ms / 1e3:.1f} s | {told.eager_us:,.0f} µs | {told.compiled_us:,.0f} µs"
        return f"{start} | {times} | {ratio:.2f} | {told.form} |"


def measured(names: Sequence[str]) -> Iterator[Measured]:
    """Each template as the forge would make it, one after the other."""
    for name in names:
        blueprint = CATALOGUE[name]
        kind = next(kind for kind in PREFERRED if kind in blueprint.kinds)
        site = SiteShape(kind, USUAL[kind])
        with tempfile.TemporaryDirectory() as folder:
            yield Measured(blueprint, site, asyncio.run(_made(blueprint, site, Path(folder))))


async def _made(blueprint: Blueprint, site: SiteShape, folder: Path) -> Report | Failure:
    body = request(blueprint.blueprint_id, site.kind, site.shape, blueprint.resolve({}))
    job = evolve(None, requested(body, 0, producer="bench"), Place(0, 0, 0))
    allowed = limits(DEFAULT, attempt=1, attempts=2)
    order = order_of(job, allowed.pipeline, allowed.memory_bytes, approved=False)
    return await compile_in_child(folder, order, allowed.timeout_s)


def _safe() -> list[str]:
    """The safe tier without what makes a layer of the host wider: that has no module to compile."""
    return [name for name, each in CATALOGUE.items() if each.tier == "safe" and not each.widens]


def rows(*, full: bool) -> list[Row]:
    """In the common form: all of the safe tier, or two templates."""
    names = _safe() if full else QUICK
    return [row for each in measured(names) for row in _rows(each)]


def _rows(each: Measured) -> list[Row]:
    name, told = f"{each.blueprint.blueprint_id} {each.blueprint.name}", each.outcome
    if isinstance(told, Failure):
        return [Row(f"{name} compiled", math.nan, "", told.reason)]
    found = [Row(f"{name} eager pass", told.eager_us, "µs", each.fixture)]
    if told.compiled_us:
        found.append(Row(f"{name} compiled pass", told.compiled_us, "µs", each.fixture))
        found.append(Row(f"{name} compiling", told.compile_ms / 1e3, "s", each.fixture))
    return found


def main() -> None:
    """Print the table, line by line, with what it was measured on."""
    import torch

    capability, version = torch.backends.cpu.get_cpu_capability(), torch.__version__
    sys.stdout.write(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}, {capability}), load "
        f"{os.getloadavg()[0]:.1f} before, torch {version}, Python {platform.python_version()}\n\n{TABLE_HEADER}\n"
    )
    kept = []
    for each in measured(sys.argv[1:] or _safe()):
        kept.append(each.outcome)
        sys.stdout.write(each.line + "\n")
        sys.stdout.flush()
    reports = [each for each in kept if isinstance(each, Report)]
    compiled = [each for each in reports if each.compiled_us]
    faster = sum(each.form == "compiled" for each in compiled)
    seconds = sum(each.compile_ms for each in compiled) / 1e3
    sys.stdout.write(
        f"\n{len(compiled)} of {len(kept)} compiled in {seconds:,.0f} s, load {os.getloadavg()[0]:.1f} after; "
        f"{faster} serve compiled\n"
    )


if __name__ == "__main__":
    main()
