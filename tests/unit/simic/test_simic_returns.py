"""GAE against a loop that follows the definition, and V-trace where both policies are one."""

from __future__ import annotations

import pytest
import torch

from esper.errors import InvalidInput
from esper.simic.returns import compute_gae, v_trace

STEPS, RUNS = 9, 4


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, STEPS, RUNS, generator=generator, dtype=torch.float64)
    ended = (torch.rand(STEPS, RUNS, generator=generator) < 0.25).double()
    return rewards, values, ended, torch.randn(RUNS, generator=generator, dtype=torch.float64)


def slow_gae(rewards, values, ended, last, discount, smoothing):
    """Each advantage as the sum that defines it, up to the end of its episode."""
    out = torch.zeros_like(rewards)
    for run in range(RUNS):
        for start in range(STEPS):
            total, factor = 0.0, 1.0
            for t in range(start, STEPS):
                after = values[t + 1, run] if t + 1 < STEPS else last[run]
                total += factor * (rewards[t, run] + discount * after * (1 - ended[t, run]) - values[t, run])
                if ended[t, run]:
                    break
                factor *= discount * smoothing
            out[start, run] = total
    return out


@pytest.mark.requirement("R-SIM-17")
@pytest.mark.parametrize(("discount", "smoothing"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_gae_is_the_sum_that_defines_it(discount, smoothing):
    rewards, values, ended, last = case()

    found = compute_gae(rewards, values, ended, last, discount=discount, smoothing=smoothing)

    torch.testing.assert_close(found.advantages, slow_gae(rewards, values, ended, last, discount, smoothing))
    torch.testing.assert_close(found.targets, found.advantages + values)


@pytest.mark.requirement("R-SIM-21")
def test_v_trace_of_the_own_decisions_is_n_step_returns():
    rewards, values, ended, last = case(1)

    found = v_trace(torch.zeros_like(rewards), rewards, values, ended, last, discount=0.97)

    returns, carried = torch.zeros_like(rewards), last
    for t in reversed(range(STEPS)):
        carried = rewards[t] + 0.97 * (1 - ended[t]) * carried
        returns[t] = carried
    torch.testing.assert_close(found.targets, returns)
    torch.testing.assert_close(found.advantages, returns - values)


@pytest.mark.requirement("R-SIM-21")
def test_v_trace_caps_both_weights_at_their_caps():
    rewards, values, ended, last = case(2)
    unlikely, likely = torch.full_like(rewards, -1.0), torch.full_like(rewards, 3.0)

    capped = v_trace(likely, rewards, values, ended, last)
    own = v_trace(torch.zeros_like(rewards), rewards, values, ended, last)
    lower = v_trace(unlikely, rewards, values, ended, last)
    uncapped = v_trace(likely, rewards, values, ended, last, rho_cap=100.0, c_cap=100.0)

    torch.testing.assert_close(capped.targets, own.targets)
    assert not torch.allclose(lower.targets, own.targets)
    assert not torch.allclose(uncapped.targets, own.targets)
    torch.testing.assert_close(lower.ratios, unlikely.exp())


def test_shapes_that_do_not_fit_are_named():
    rewards, values, ended, last = case()

    with pytest.raises(InvalidInput, match=r"\(9, 4\), \(8, 4\)"):
        compute_gae(rewards, values[1:], ended, last)
    with pytest.raises(InvalidInput, match="log_ratios"):
        v_trace(rewards[1:], rewards, values, ended, last)
