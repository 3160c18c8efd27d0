"""Observation windows: each is reported closed exactly once, however it ended."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.tolaria.windows import Windows


def opened(windows: Windows, seed_id: str = "s1", epoch: int = 3, loss: float = 1.0) -> None:
    windows.open(
        command_id=bytes(16),
        decision_id=b"d" * 16,
        seed_id=seed_id,
        blueprint_id="BP009",
        policy_version="1",
        epoch=epoch,
        loss=loss,
        parameters_added=7,
    )


@pytest.mark.requirement("R-TAM-46")
def test_a_window_closes_after_its_epochs_and_is_reported_closed_once() -> None:
    windows = Windows(3)
    opened(windows)
    seen = []
    for loss in (0.9, 1.2, 0.8, 0.1):
        windows.epoch_ended(loss, 2.0)
        seen.append(windows.report())
    assert [[window.closed for window in each] for each in seen] == [[False], [False], [True], []]
    last = seen[2][0]
    assert (last.age_epochs, last.ended_as, last.opened_epoch) == (3, "window", 3)
    figures = (last.loss_at_open, last.loss_min, last.loss_max, last.loss_now, last.hook_ms_mean, last.parameters_added)
    assert figures == pytest.approx((1.0, 0.8, 1.2, 0.8, 2.0, 7.0))


@pytest.mark.parametrize(
    ("stage", "ending"),
    [
        (leyline.SEED_LIFECYCLE_STAGE_FOSSILIZED, "fossilized"),
        (leyline.SEED_LIFECYCLE_STAGE_CULLED, "culled"),
        (leyline.SEED_LIFECYCLE_STAGE_BLENDING, ""),
    ],
)
def test_the_end_of_a_seeds_life_ends_its_windows(stage: leyline.SeedLifecycleStage, ending: str) -> None:
    windows = Windows(3)
    opened(windows, "s1")
    opened(windows, "s2")
    windows.seed_moved("s1", stage)
    windows.epoch_ended(0.5, 1.0)
    first, second = windows.report()
    assert (first.ended_as, first.closed) == (ending, bool(ending))
    assert (second.ended_as, second.closed) == ("", False)


def test_an_ended_window_sees_no_more_losses() -> None:
    windows = Windows(3)
    opened(windows)
    windows.end_all("rolled_back")
    windows.epoch_ended(99.0, 1.0)
    assert [(window.loss_max, window.ended_as) for window in windows.report()] == [(1.0, "rolled_back")]


def test_a_critical_event_marks_the_windows_of_its_seed() -> None:
    windows = Windows(3)
    opened(windows, "s1")
    opened(windows, "s2")
    windows.critical("s1")
    assert [window.critical for window in windows.report()] == [True, False]


@pytest.mark.requirement("R-TAM-47")
def test_state_survives_json() -> None:
    windows, other = Windows(3), Windows(3)
    opened(windows)
    windows.epoch_ended(0.7, 1.5)
    other.load_state(json.loads(json.dumps(windows.state())))
    assert other.report() == windows.report()
