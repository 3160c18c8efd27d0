"""A recorded decision made again from its event alone: the same observation, policy and draw give the same choice."""

from __future__ import annotations

import hashlib

from contracts.leyline.v1.event_pb2 import DecisionMade, EpochCompleted
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.tamiyo import policies
from esper.tamiyo.choice import draw_for, pick
from esper.tamiyo.decide import decide


def rederived(made: DecisionMade, packet: Event, objects: ObjectStore) -> str | None:
    """How the decision comes out otherwise than recorded; empty where it is the same.

    None where this Esper has no policy with the recorded hash: then only the choice from mask, logits and draw was made
    again. Raises InvalidInput or CorruptState where a long observation is not in the object store as it was.
    """
    observation = made.observation or objects.get(made.observation_ref)
    if hashlib.sha256(observation).digest() != made.observation_hash:
        return "the observation is not the one that was hashed"
    policy = policies.POLICIES.get(made.policy)
    if policy is None or policy.digest != made.policy_hash:
        mask = [bool(each) for each in made.action_mask]
        ways = {pick(made.logits, mask, made.draw, greedy=greedy) for greedy in (True, False)}
        return None if made.action in ways else f"its logits do not give action {made.action}"
    state = EpochCompleted.FromString(observation)
    draw = draw_for(state.policy_seed, packet.timeline, state.state.current_epoch)
    again = decide(observation, policy, made.draw)
    for name, now, then in (
        ("packet", packet.epoch_completed.SerializeToString(deterministic=True), observation),
        ("draw", draw, made.draw),
        ("actions", [str(action) for action in again.actions], list(made.actions)),
        ("mask", bytes(again.mask), made.action_mask),
        ("logits", again.logits, list(made.logits)),
        ("action", again.action, made.action),
        ("reason", again.reason, made.reason),
    ):
        if now != then:
            what = f"{now!r} instead of {then!r}"
            return f"{name} {what if len(what) < 200 else 'is another one'}"
    return ""
