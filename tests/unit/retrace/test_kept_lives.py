"""Lives that an earlier Esper trained replay bit for bit: what a run computes is the same in every version."""

from __future__ import annotations

import pytest

from esper.leyline.envelope import body_name
from esper.record import Recorded
from esper.testing import REAL_CLOCK, signed
from esper.tolaria.machine import differences
from esper.tolaria.replay import replay_run
from tests.unit.retrace.keep_life import KEPT, kept
from tests.unit.retrace.lives import tiny

LIVES = sorted(file.name for file in KEPT.glob("*.gz"))


@pytest.fixture(params=LIVES)
def recorded(request) -> Recorded:
    """A kept life, with the decisions and commands that it answers."""
    events, asked = kept(request.param)
    asked += [event for event in events if body_name(event) in ("decision_made", "adaptation_command")]
    return Recorded.of("run", [event for event in events if event.sequence], [(each, signed(each)) for each in asked])


def test_a_kept_life_is_what_it_was(recorded, lived):
    """On this build and processor every digest is that of then. On another one the difference is named instead."""
    others = [each for each in differences(recorded.facts, tiny().fingerprint()) if not each.startswith("esper ")]
    replayed = replay_run(recorded, tiny(), objects=lived.objects, clock=REAL_CLOCK)

    digests = sum(body_name(fact) == "state_digested" for fact in recorded.facts)
    if replayed.diverged is None:
        assert (replayed.digests_checked, replayed.step) == (digests, recorded.state.model.step)
    assert (replayed.diverged is None) or others, f"diverged where nothing differs: {replayed.diverged}"
    assert digests > 20
