"""What seeds cost: `python -m tests.bench.kasmina`, about ten seconds.

Fixture: a convolution of 16 channels over 64 images of 8 by 8 and a linear head; the seed is Karn's BP009 (residual
3x3 block) behind the convolution; one thread. Each figure is the smallest of 200 calls, because all above that is the
machine's doing. Limits: R-KAS-22, R-KAS-35, R-KAS-36; a row without one is there to be read.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator

import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.karn import catalogue
from esper.kasmina.blending import Blend, mix
from esper.kasmina.isolation import foreign_leaves
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites
from tests.bench.table import HEADER, Row, failed, line

CALLS = 200
FIXTURE = "BP009 behind a convolution of 16 channels, 64 images of 8 by 8"
loss_fn = nn.functional.cross_entropy


def fastest_us(call: Callable[[], object]) -> float:
    """The shortest of many calls, in microseconds."""
    best = float("inf")
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best * 1e6


class Fixture:
    """A host, a batch, and Kasminas over it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.host = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 10))
        self.inputs, self.targets = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
        self.sites = describe_sites(self.host, [Site("0", "image")], self.inputs, catalogue.options)

    def kasmina(self, lifecycle: str) -> Kasmina:
        """With one seed, which is TRAINING (`full`) or FOSSILIZED (`direct`)."""
        settings = SeedSettings(lifecycle="direct" if lifecycle == "direct" else "full")
        clock = time.perf_counter
        new = Kasmina(self.host, self.sites, settings, catalogue.build, steps_per_epoch=1, seed=0, monotonic=clock)
        new.apply(command(leyline.SEED_OPERATION_GERMINATE))
        new.advance_step()
        return new


def command(operation: leyline.SeedOperation) -> leyline.AdaptationCommand:
    """A seed command for s1."""
    return leyline.AdaptationCommand(
        command_id=str(uuid.UUID(int=1)),
        command_type=leyline.COMMAND_TYPE_SEED,
        target_seed_id="s1",
        seed_operation=leyline.CommandSeedOperation(operation=operation, blueprint_id="BP009"),
    )


def blending(seed_us: float) -> Iterator[Row]:
    """Each mode's mix on the fixture's activation, and how much longer than CONVEX it makes a seed's forward."""
    h, s, alpha = torch.randn(64, 16, 8, 8), torch.randn(64, 16, 8, 8), torch.tensor(0.3)
    convex = fastest_us(lambda: mix(Blend(), h, s, alpha, "image"))
    yield seed("mix CONVEX", convex)
    modes = {"RESIDUAL": (Blend(mode=leyline.BLEND_MODE_RESIDUAL), 5.0)}
    modes["CHANNEL"] = (Blend(mode=leyline.BLEND_MODE_CHANNEL, channel=(0.5,) * 16), 15.0)
    for name, (blend, limit) in modes.items():
        took = fastest_us(lambda blend=blend: mix(blend, h, s, alpha, "image"))  # type: ignore[misc]
        yield seed(f"{name} over CONVEX, of the seed's forward", 100 * (took - convex) / (seed_us + convex), limit, "%")
    h, s = torch.randn(64, 10), torch.randn(64, 10)
    convex = fastest_us(lambda: mix(Blend(), h, s, alpha, "vector"))
    gated = Blend(mode=leyline.BLEND_MODE_CONFIDENCE, logits=True)
    took = fastest_us(lambda: mix(gated, h, s, alpha, "vector"))
    yield seed(
        "CONFIDENCE over CONVEX at 64 x 10 logits, of the seed's forward", 100 * (took - convex) / seed_us, 5.0, "%"
    )


def seed(what: str, measured: float, limit: float | None = None, unit: str = "µs") -> Row:
    """A figure on the one fixture of this benchmark."""
    return Row(f"seeds: {what}", measured, unit, FIXTURE, limit)


def rows(*, full: bool = False) -> list[Row]:  # as quick as it can be
    """Every figure with its limit."""
    torch.set_num_threads(1)
    return list(measured())


def measured() -> Iterator[Row]:
    """The figures one by one."""
    fixture = Fixture()
    host, inputs, targets = fixture.host, fixture.inputs, fixture.targets
    bare = fastest_us(lambda: host(inputs))
    kasmina = fixture.kasmina("direct")
    module = kasmina.modules()["s1"]
    activation = host[0](inputs).detach()
    alone = fastest_us(lambda: module(activation))
    grown = fastest_us(lambda: host(inputs))
    yield seed("seed's module alone", alone)
    yield seed("forward overhead of a mixed seed beside its module", grown - bare - alone, 800.0)
    kasmina.teardown()
    yield from blending(alone)

    def train() -> None:
        host.zero_grad()
        torch.autograd.backward(loss_fn(host(inputs), targets))

    yield seed("host's forward and backward", fastest_us(train))
    kasmina = fixture.kasmina("full")
    yield seed("side pass", fastest_us(lambda: kasmina.side_pass(lambda: loss_fn(host(inputs), targets))))
    output, own = module(activation), list(module.parameters())
    yield seed("isolation check of one forward", fastest_us(lambda: foreign_leaves(output, own)), 100.0)
    yield seed("site evidence", fastest_us(lambda: kasmina.evidence(lambda: loss_fn(host(inputs), targets))))
    yield seed("observations", fastest_us(kasmina.observations), 500.0)
    yield seed("advance_step", fastest_us(kasmina.advance_step))
    culls = []
    for _ in range(50):
        fresh = fixture.kasmina("full")
        began = time.perf_counter()
        fresh.apply(command(leyline.SEED_OPERATION_CULL))
        culls.append((time.perf_counter() - began) * 1e6)
    yield seed("one stage transition (half of a cull's two)", min(culls) / 2, 300.0)


def main() -> int:
    """Print the table; 1 where a limit is missed."""
    found = rows()
    sys.stdout.write("\n".join([HEADER, *map(line, found), ""]))
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
