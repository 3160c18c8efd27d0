"""What a person tells a run: between two steps, recorded or refused, and again in replay, resume and fork."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import InvalidInput
from esper.record import replay
from esper.tolaria.told import read_told, told_event
from tests.unit.retrace.lives import QUICK


def tell(words: str):
    """A person's words as a command of the script."""

    def make(run_id: str):
        return told_event(run_id, read_told(words), now_ns=time.time_ns(), random_bytes=os.urandom(10))

    return make


def applied(lived) -> list[tuple[int, str]]:
    facts = [event for event in lived.log.events if event.HasField("command_applied")]
    return [(fact.global_step, fact.command_applied.told) for fact in facts if fact.command_applied.told]


def refused(lived) -> list[str]:
    return [body.reason for body in lived.log.bodies("command_rejected")]


def check_again(lived, other) -> None:
    """It replays bit for bit, and killed after all was told and resumed it comes to the same digests."""
    replayed = lived.replay()
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.digests_checked == lived.count("state_digested")
    last = max(at for at, event in enumerate(lived.log.events) if event.HasField("command_applied"))
    other.train(lived.script, dies_at=last + 2, policy="none").resume()
    assert other.digests() == lived.digests()
    assert applied(other) == applied(lived)


STORIES = {
    "pause": {4: "pause", 6: "germinate s1 BP009", 9: "resume"},
    "hold": {2: "germinate s1 BP009", 5: "hold s1", 14: "advance s1"},
    "advance": {2: "germinate s1 BP009", 4: "advance s1"},
    "rate": {3: "rate 0.5", 7: "rate 0.25", 12: "rate 1"},
    "rollback": {2: "germinate s1 BP009", 7: "rollback", 10: "rollback full"},
    "cull while paused": {2: "germinate s1 BP009", 5: "pause", 6: "cull s1", 7: "rate 2", 8: "resume"},
    "rollback while paused": {5: "pause", 6: "rollback", 8: "resume"},
}


@pytest.mark.requirement("R-TAM-17")
@pytest.mark.parametrize("story", STORIES)
def test_what_was_told_is_told_again(lived, other, story):
    lived.script = {at: tell(words) for at, words in STORIES[story].items()}
    lived.train(lived.script, policy="none")

    assert [told for _, told in applied(lived)] == list(STORIES[story].values())
    assert refused(lived) == []
    check_again(lived, other)


def test_a_paused_run_stands_still_until_it_is_told_to_go_on(lived, other):
    lived.train({4: tell("pause"), 9: tell("resume")}, policy="none")
    other.train(policy="none")

    assert applied(lived) == [(4, "pause"), (4, "resume")]
    assert lived.log._asked == other.log._asked + 5
    assert lived.digests() == other.digests()


def test_a_run_that_died_while_it_was_paused_is_paused_still(lived):
    script = {4: tell("pause"), 6: tell("germinate s1 BP009")}
    lived.train(script, should_stop=stop_after(lived, 8), policy="none")
    assert lived.result.status == "interrupted"
    assert replay(lived.recorded().facts).run_status.paused

    stands = iter([False, False])
    lived.resume(should_stop=lambda: next(stands, True))
    assert lived.result.status == "interrupted"  # nobody told it to go on, so it went no step further
    assert lived.recorded().state.model.step == 4


def stop_after(lived, asked: int):
    return lambda: lived.log._asked >= asked


def test_a_seed_that_is_held_stays_and_one_that_is_advanced_meets_its_gate_at_once(lived, other):
    def stages(run) -> list[str]:
        names = leyline.SeedLifecycleStage
        return [names.Name(body.to_stage).rpartition("STAGE_")[2] for body in run.log.bodies("seed_transitioned")]

    lived.train({2: tell("germinate s1 BP009"), 5: tell("hold s1")}, policy="none")
    other.train({2: tell("germinate s1 BP009"), 5: tell("hold s1"), 14: tell("advance s1")}, policy="none")

    assert stages(lived) == ["GERMINATED", "TRAINING"]
    assert stages(other)[:3] == ["GERMINATED", "TRAINING", "BLENDING"]
    held = [seed.held for body in lived.log.bodies("epoch_completed") for seed in body.seeds if seed.seed_id == "s1"]
    assert held == [False, *[True] * 9]


def test_an_advanced_seed_needs_no_dwell(lived, other):
    slow = dataclasses.replace(QUICK, training_epochs=9)
    lived.train({2: tell("germinate s1 BP009"), 5: tell("advance s1")}, policy="none", seeds=slow)
    other.train({2: tell("germinate s1 BP009")}, policy="none", seeds=slow)

    gates = [
        [(event.epoch, event.gate_evaluated.gate) for event in run.log.events if event.HasField("gate_evaluated")]
        for run in (lived, other)
    ]
    g1 = leyline.SEED_LIFECYCLE_GATE_G1_GRADIENT_HEALTH
    assert [epoch for epoch, gate in gates[0] if gate == g1] == [2]
    assert [epoch for epoch, gate in gates[1] if gate == g1] == [9]


REFUSED = {
    "resume": "not_paused",
    "hold s1": "no_seed",
    "advance s2": "no_seed",
    "cull s1": "illegal_transition",
    "fossilize s1": "illegal_transition",
    "hold s9": "unknown_seed",
    "rate 0.001": "rate_out_of_bounds",
    "rate 4.1": "rate_out_of_bounds",
}


@pytest.mark.requirement("R-TAM-19")
@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_legal_is_refused_with_its_reason_and_changes_nothing(lived, other, words):
    lived.train({3: tell(words)}, policy="none", epochs=3)
    other.train(policy="none", epochs=3)

    assert refused(lived) == [REFUSED[words]]
    assert lived.digests() == other.digests()
    assert lived.replay().diverged is None


@pytest.mark.requirement("R-TAM-44")
def test_whoever_has_paused_too_often_in_an_epoch_is_refused_and_that_is_alarmed(lived):
    words = [each for _ in range(3) for each in (tell("pause"), tell("resume"))]
    lived.train({4: tuple(words), 9: (tell("pause"), tell("resume"))}, policy="none", pause_quota=2)

    assert refused(lived) == ["pause_quota", "not_paused"]
    (signal,) = lived.log.bodies("emergency_signal")
    assert "person has paused 2 times in this epoch" in signal.reason
    assert [step for step, told in applied(lived) if told == "pause"] == [4, 4, 9]  # the next epoch has its own quota
    assert lived.replay().diverged is None


def test_a_fork_shares_what_was_told_before_it(lived, other):
    lived.train(
        {2: tell("germinate s1 BP009"), 4: tell("pause"), 6: tell("resume"), 8: tell("rate 0.5")}, policy="none"
    )
    other.fork(lived, 12, "nothing")

    shared = {step: root for step, root in lived.digests() if step > 12}
    assert dict(_own_digests(other)) == shared


def _own_digests(fork):
    found = [(event.global_step, event.state_digested) for event in fork.log.events if event.HasField("state_digested")]
    return [(step, body.root) for step, body in found if body.occasion == "epoch" and step > 12]


@pytest.mark.parametrize(
    "words", ["", "cull", "grow s1", "rate", "rate x", "rate -1", "rate nan", "rollback now", "cull s1 s2"]
)
def test_words_that_mean_nothing_are_refused(words):
    with pytest.raises(InvalidInput):
        read_told(words)


def test_a_told_command_keeps_the_size_of_a_command():
    event = told_event(
        "k3f9x2qa", read_told("germinate s10 residual_block"), now_ns=time.time_ns(), random_bytes=bytes(10)
    )

    assert event.adaptation_command.ByteSize() < 280
    assert event.adaptation_command.annotations["told"].startswith("germinate s10 BP")
