"""Weights of the stages, microbatches, projection of conflicts, and clipping loss by loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import ContractViolation
from esper.kasmina.passes import Closure
from esper.tolaria.gradients import Learners, backward, clip, combine_pcgrad, combine_sum, project, stage_weight

STAGES = {name: number for name, number in leyline.SeedLifecycleStage.items() if number}
EXPECTED = {"GERMINATED": 0.01, "TRAINING": 0.1, "SHADOWING": 0.5, "PROBATIONARY": 1.0}


@pytest.mark.requirement("R-TOL-9")
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_the_weight_of_the_original(name: str) -> None:
    short = name.removeprefix("SEED_LIFECYCLE_STAGE_")
    weight = stage_weight(STAGES[name], progress=0.5)
    assert weight == (0.5 if short == "BLENDING" else EXPECTED.get(short, 0.0))


def test_blending_counts_more_as_the_run_goes_on() -> None:
    weights = [stage_weight(leyline.SEED_LIFECYCLE_STAGE_BLENDING, progress / 4) for progress in range(5)]
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(1 / (1 + math.e))


@pytest.mark.requirement("R-TOL-9")
def test_an_unknown_stage_is_an_error() -> None:
    with pytest.raises(ContractViolation, match="stage 0 is none of the eleven"):
        stage_weight(leyline.SEED_LIFECYCLE_STAGE_UNKNOWN, 0.5)


def conflicting() -> tuple[torch.Tensor, torch.Tensor]:
    left = torch.tensor([1.0, 2.0, 3.0])
    return left, -left + torch.tensor([0.5, -0.2, 0.1])


@pytest.mark.requirement("R-TOL-10")
def test_a_conflicting_gradient_becomes_orthogonal() -> None:
    host, seed = conflicting()
    gradients = [seed.clone()]
    assert project(gradients, [host]) == 1
    projected = gradients[0]
    assert projected is not None
    assert abs(float(projected @ host)) <= 1e-6 * float(projected.norm() * host.norm())


def test_gradients_that_merely_differ_are_left_alone() -> None:
    host = torch.tensor([1.0, 0.0])
    slight = torch.tensor([-0.4, 1.0])  # cosine -0.37, above the threshold of -0.5
    gradients = [slight.clone(), None]
    assert project(gradients, [host, host]) == 0
    assert torch.equal(gradients[0], slight)  # type: ignore[arg-type]
    assert gradients[1] is None


@pytest.mark.requirement("R-TOL-12")
def test_projection_is_reproducible_under_a_seed_and_depends_on_it() -> None:
    sources = [[torch.tensor(values)] for values in ([1.0, 0.2, 0.0], [-1.0, 0.3, 0.1], [-0.9, -0.5, 0.4])]

    def combined(seed: int) -> bytes:
        gradients, conflicts = combine_pcgrad(sources, torch.Generator().manual_seed(seed))
        assert conflicts > 0
        assert gradients[0] is not None
        return gradients[0].numpy().tobytes()

    assert combined(1) == combined(1)
    assert len({combined(seed) for seed in range(8)}) > 1


@pytest.mark.requirement("R-TOL-12")
def test_the_sum_does_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(4)
    sources = [[torch.randn(7, generator=generator), None] for _ in range(4)]
    sums = {
        tuple(combine_sum(list(order))[0].tolist())  # type: ignore[union-attr]
        for order in itertools.permutations(sources)
    }
    assert len(sums) == 1
    assert combine_sum(sources)[1] is None


def test_microbatches_give_the_gradient_of_the_whole_batch() -> None:
    torch.manual_seed(3)
    layer, spare = nn.Linear(3, 2), nn.Linear(1, 1)
    inputs, targets = torch.randn(10, 3), torch.randn(10, 2)
    parameters = [*layer.parameters(), *spare.parameters()]

    def of(some: torch.Tensor, wanted: torch.Tensor) -> Closure:
        return lambda: (layer(some) - wanted).square().mean()

    def gradients(microbatches: int, *, pcgrad: bool = False) -> tuple[list[torch.Tensor | None], float]:
        for parameter in parameters:
            parameter.grad = None
        pairs = zip(inputs.chunk(microbatches), targets.chunk(microbatches), strict=True)
        loss, _ = backward(
            of(inputs, targets),
            [] if microbatches == 1 else [(len(each) / len(inputs), of(each, wanted)) for each, wanted in pairs],
            parameters,
            pcgrad=pcgrad,
            generator=torch.Generator().manual_seed(0),
        )
        return [None if each.grad is None else each.grad.clone() for each in parameters], float(loss)

    whole, loss = gradients(1)
    parts, loss_of_parts = gradients(3)  # 4, 4 and 2 samples: the last counts for less
    assert loss_of_parts == pytest.approx(loss, rel=1e-6)
    for left, right in zip(whole[:2], parts[:2], strict=True):
        assert torch.allclose(left, right, atol=1e-6)  # type: ignore[arg-type]
    assert whole[2:] == parts[2:] == [None, None]
    assert not torch.equal(gradients(10, pcgrad=True)[0][0], whole[0])  # type: ignore[arg-type]


def give(module: nn.Module, value: float) -> list[nn.Parameter]:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return list(module.parameters())


def norm(parameters: list[nn.Parameter]) -> float:
    return float(torch.cat([each.grad.flatten() for each in parameters if each.grad is not None]).norm())


@pytest.mark.requirement("R-TOL-11")
def test_host_and_live_seeds_share_the_norm_limit() -> None:
    joint = [*give(nn.Linear(4, 4), 30.0), *give(nn.Linear(4, 4), 40.0)]
    untouched = nn.Parameter(torch.ones(2))
    before = norm(joint)
    assert clip(Learners([*joint, untouched], []), 10.0) == pytest.approx(before)
    assert norm(joint) == pytest.approx(10.0, rel=1e-5)
    assert untouched.grad is None


def test_a_seed_in_training_cannot_change_the_hosts_gradient() -> None:
    host = give(nn.Linear(4, 4), 0.1)
    plain = [each.grad.clone() for each in host if each.grad is not None]
    seed = give(nn.Linear(4, 4), 1e6)
    clip(Learners(host, [(seed, 0.1)]), 10.0)
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, host, strict=True))
    assert norm(seed) == pytest.approx(10.0, rel=1e-5)


def test_a_lone_seed_with_broken_gradients_skips_the_step_alone() -> None:
    host, broken = give(nn.Linear(2, 2), 0.1), give(nn.Linear(2, 2), math.nan)
    assert math.isfinite(clip(Learners(host, [(broken, 0.1)]), 10.0))
    assert all(each.grad is None for each in broken)
    assert all(each.grad is not None for each in host)


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.5, 0.9985, 0.999, 1.0 - 1e-6, 1.0, 1.0 + 1e-6, 7.0, math.inf, math.nan])
@pytest.mark.parametrize("limit", [1e-4, 1.0, 10.0])
def test_clipping_is_torchs_own_to_the_bit(size: float, limit: float) -> None:
    """It leaves out a multiplication by one, and nothing else."""
    torch.manual_seed(2)
    direction = torch.randn(64)
    ours, theirs = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(64))
    ours.grad = size * limit * direction / direction.norm()
    theirs.grad = ours.grad.clone()
    expected = float(nn.utils.clip_grad_norm_([theirs], limit))
    assert clip(Learners([ours], []), limit) == pytest.approx(expected, rel=0, nan_ok=True)
    assert torch.equal(ours.grad.nan_to_num(1.5), theirs.grad.nan_to_num(1.5))
