"""A policy is swapped while a run trains: later decisions are the new one's, and a replay makes all of them again."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1.event_pb2 import PolicyPromoted
from esper.leyline import ids
from esper.leyline.envelope import body_name, new_event
from esper.tamiyo import weights
from esper.tamiyo.decide import decide
from esper.tamiyo.network import make
from esper.tamiyo.serving import IN_FORCE_NS, Serving, load
from esper.testing import FakeClock


def promoted(objects, seed, at_ns):
    """A network whose choices follow from its seed, as promoted so that it is in force at `at_ns`."""
    network = make("small", seed)
    with torch.no_grad():
        network.logit.weight.normal_(generator=torch.Generator().manual_seed(seed))
    version = f"{seed}.0.0"
    ref = objects.put(weights.save(network, version))
    body = PolicyPromoted(policy_id="p", policy_version=version, weights_ref=ref)
    event_id = ids.derived_id(ref.encode(), "test", 0)
    return new_event(body, event_id=event_id, run_id="", producer="simic", recorded_at_ns=at_ns - IN_FORCE_NS)


@pytest.mark.requirement("R-TAM-4", "R-TAM-56")
def test_a_run_is_replayed_to_the_bit_across_a_swap_of_its_policy(lived):
    clock, steps = FakeClock(), iter(range(10**6))
    serving = Serving(lived.objects)
    serving.promote(promoted(lived.objects, 1, clock.wall_ns))

    def a_step():
        clock.advance(1.0)
        if next(steps) == 15:
            serving.promote(promoted(lived.objects, 2, clock.wall_ns))
        return False

    lived.train(policy="learned", seed=1, clock=clock.clock, serving=serving, should_stop=a_step)

    packets = {event.event_id: event for event in lived.log.events if body_name(event) == "epoch_completed"}
    made = [event.decision_made for event in lived.log.events if body_name(event) == "decision_made"]
    versions = [each.policy_version for each in made]
    assert versions == sorted(versions)
    assert set(versions) == {"1.0.0", "2.0.0"}
    replayed = lived.replay()
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.decisions_checked == len(made) == 10
    assert replayed.digests_checked == lived.count("state_digested")
    both = [load(ref, lived.objects) for ref in (made[0].policy_ref, made[-1].policy_ref)]
    chosen = [[str(decide(each.observation, policy, each.draw).chosen) for policy in both] for each in made]
    assert sum(old != new for old, new in chosen) > 0  # else the swap changed nothing
    norms = [packet.epoch_completed.normalizer for packet in packets.values()]
    assert [each.updates[0] for each in norms] == list(range(10))
    assert norms[-1].mean[0] != norms[1].mean[0]
