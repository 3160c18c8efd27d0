"""Runs that end otherwise than planned, and those that do not begin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.errors import InvalidInput, LogUnavailable
from esper.leyline import limits
from esper.tolaria.state import load_checkpoint
from esper.tolaria.tasks import Site


def test_asked_to_stop_it_ends_as_interrupted_with_its_last_epoch_kept(bench, tiny_task) -> None:
    calls = iter(range(100))
    result = bench.run(tiny_task(epochs=50), lambda: next(calls) == 6)
    assert (result.status, result.epochs) == ("interrupted", 1)
    assert bench.log.bodies("run_finished")[0].status == "interrupted"
    assert bench.log.bodies("checkpoint_saved")[-1].ref in bench.objects


def test_a_run_that_ends_before_a_seed_has_proven_itself_tells_the_network_without_it(bench, tiny_task) -> None:
    result = bench.run(tiny_task(epochs=4), bench.growing(after=2))
    (end,) = bench.log.bodies("run_finished")

    assert (result.unproven, list(end.unproven)) == (["s1"], ["s1"])
    assert result.fates["s1"]["stage"] in ("BLENDING", "SHADOWING", "PROBATIONARY")
    assert end.test_loss_without == result.test_loss_without != result.test_loss


def test_without_a_seed_in_doubt_there_is_nothing_to_tell(bench, tiny_task) -> None:
    result = bench.run(tiny_task(epochs=1))
    (end,) = bench.log.bodies("run_finished")

    assert (result.unproven, result.test_loss_without) == ([], None)
    assert not end.HasField("test_loss_without")


def test_a_log_that_takes_nothing_ends_the_run_with_the_state_kept(bench, tiny_task) -> None:
    calls = iter(range(100))

    def close_later() -> bool:
        if next(calls) == 9:
            bench.log.close()
        return False

    with pytest.raises(LogUnavailable, match=r"run run stopped at step 12: step \d+ is kept as sha256:") as caught:
        bench.run(tiny_task(epochs=50), close_later)
    _, _, position = load_checkpoint(bench.objects, str(caught.value).rpartition(" ")[2])
    assert position.step == 8  # the newest state whose facts the log has


def test_what_a_model_raises_is_raised_on_once_the_history_has_it(bench, tiny_task) -> None:
    class Breaks(nn.Linear):
        calls = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            Breaks.calls += 1
            if Breaks.calls == 20:
                raise RuntimeError("out of ideas\nand a second line")
            return super().forward(inputs)

    with pytest.raises(RuntimeError, match="out of ideas"):
        bench.run(tiny_task(make_host=lambda: Breaks(4, 3), sites=()))
    (end,) = bench.log.bodies("run_finished")
    assert (end.status, end.reason) == ("failed", "RuntimeError: out of ideas")
    assert math.isnan(end.test_accuracy)
    assert math.isnan(end.test_loss)


def test_a_model_that_raises_at_once_leaves_no_history(bench, tiny_task) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        bench.run(tiny_task(make_host=lambda: nn.Linear(5, 3), sites=()))
    assert bench.log.events == []


def test_a_site_that_does_not_exist_lists_those_that_do(bench, tiny_task) -> None:
    with pytest.raises(InvalidInput, match=r"no site 'blocks\.9' in Sequential; it has 0, 1, 2"):
        bench.run(tiny_task(sites=(Site("blocks.9", "vector"),)))
    assert bench.log.events == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(bench, device: str) -> None:
    with pytest.raises(InvalidInput, match=f"device '{device}' is"):
        bench.run(device=device)


@pytest.mark.requirement("R-LEY-14")
def test_no_run_starts_where_more_than_all_memory_is_promised(bench, monkeypatch) -> None:
    """R-LEY-14."""
    monkeypatch.setattr(limits, "MEMORY", {**limits.MEMORY, "model": 0.41})
    with pytest.raises(InvalidInput, match=r"sum to 1\.010"):
        bench.run()
    assert bench.log.events == []
