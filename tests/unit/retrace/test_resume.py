"""A run that died at any moment and was resumed ends as the run that lived."""

from __future__ import annotations

import random

import pytest
import torch

from esper.errors import InvalidInput, Superseded
from esper.leyline.verifier import CommandVerifier
from esper.record import replay
from esper.testing import KEYS, REAL_CLOCK
from esper.tolaria.divergence import Diverged
from esper.tolaria.outside import Outside
from esper.tolaria.resume import resume_run
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.unit.retrace.lives import Fault, tiny


def check_same(resumed, whole) -> None:
    """The same digests at the same steps, and a history that holds together and can be lived again."""
    assert resumed.digests() == whole.digests()
    state = replay(event for event in resumed.log.events if event.sequence)
    assert (state.problem, state.status) == (None, "completed")
    assert resumed.result.val_accuracy == whole.result.val_accuracy
    assert resumed.result.flops == whole.result.flops


def story(lived) -> dict[int, object]:
    return {1: lived.germinate("s1"), 2: lived.germinate("s2"), 5: lived.go_back("fast"), 6: lived.germinate("s2")}


def deaths(seed: int, count: int, whole) -> list[tuple[int, bool]]:
    """Moments at which to die: after so many events, the last of which was written or was not.

    All of them after the last thing that a person wanted, because the next process's log brings no more of that.
    """
    chance, events = random.Random(seed), whole.log.events
    asked = [n for n, event in enumerate(events) if event.HasField("command_applied") and not event.correlation_id]
    first = max([4, *(n + 1 for n in asked)])
    return [(chance.randrange(first, len(events) - 1), chance.random() < 0.5) for _ in range(count)]


@pytest.mark.parametrize("number", range(3))
def test_a_run_that_died_goes_on_as_if_nothing_had_been(lived, other, number):
    other.train(story(other), seed=6)
    dies_at, told = deaths(17, 3, other)[number]
    lived.train(story(lived), seed=6, dies_at=dies_at, told=told).resume()

    check_same(lived, other)
    (claim,) = lived.log.bodies("run_resumed")
    assert not claim.superseded


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(50))
def test_fifty_deaths(lived, other, seed):
    eventful = bool(seed % 2)
    other.train(story(other) if eventful else {}, seed=seed)
    for dies_at, told in deaths(seed, 1, other):
        lived.train(story(lived) if eventful else {}, seed=seed, dies_at=dies_at, told=told).resume()
    check_same(lived, other)
    assert lived.replay().diverged is None


def test_a_run_that_dies_again_and_again_comes_to_its_end(lived, other):
    other.train(story(other), seed=8)
    lived.train(story(lived), seed=8, dies_at=30)
    for dies_at in (36, 75, 77, 120):
        lived.resume(dies_at)
    lived.resume()

    check_same(lived, other)
    assert [claim.accepted_sequence for claim in lived.log.bodies("run_resumed")] != []
    assert lived.recorded().state.incarnation == 6
    assert lived.replay().diverged is None


def test_a_run_that_was_stopped_goes_on(lived, other):
    """What the stopped process said last is void; the run ends otherwise."""
    other.train(seed=3)
    asked = iter(range(1000))
    lived.train(seed=3, should_stop=lambda: next(asked) == 14)
    assert lived.log.bodies("run_finished")[0].status == "interrupted"
    lived.resume()

    check_same(lived, other)


def test_a_run_that_only_lacks_its_last_word_says_it(lived, other):
    other.train(seed=3)
    events = len(other.log.events)
    lived.train(seed=3, dies_at=events - 1, told=False)
    assert not lived.log.bodies("run_finished")
    lived.resume()

    check_same(lived, other)


def test_a_command_that_was_not_answered_yet_is_applied_once_the_run_is_live(lived, other):
    other.train({7: other.germinate("s1")}, seed=3, policy="none")
    applied = next(n for n, event in enumerate(other.log.events) if event.HasField("command_applied"))
    lived.train({7: lived.germinate("s1")}, seed=3, policy="none", dies_at=applied, told=False).resume()

    assert lived.count("command_applied") == 1
    assert lived.result.status == "completed"
    assert lived.replay().diverged is None


def test_a_run_that_is_over_is_refused(lived):
    lived.train(seed=3)
    with pytest.raises(InvalidInput, match=r"run run is over \(completed\): there is nothing to resume"):
        lived.resume()


def test_a_stretch_that_cannot_be_followed_is_void(lived):
    """Here the record was changed; on another machine the bits may be others."""
    lived.train(seed=3, dies_at=70)
    digests = [event for event in lived.log.events if event.HasField("state_digested")]
    digests[-1].state_digested.root = bytes(32)
    step = digests[-1].global_step
    lived.resume()

    (claim,) = lived.log.bodies("run_resumed")
    assert claim.superseded
    assert claim.accepted_sequence < digests[-1].sequence
    assert f"step {step}" in claim.reason
    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, state.status, state.incarnation, state.model.epoch) == (None, "completed", 2, 10)
    assert lived.replay().diverged is None


def other_arithmetic():
    """The same task on a processor whose arithmetic gives weights that are a little different from the first on."""

    def make_host():
        host = tiny().make_host()
        with torch.no_grad():
            next(host.parameters()).mul_(1.0 + 1e-6)
        return host

    return tiny(make_host=make_host)


def test_another_processor_goes_on_from_the_weights_that_were_stored_at_the_start(lived):
    """As `ATEN_CPU_CAPABILITY=default esper resume last` after a kill before the second checkpoint."""
    lived.train(seed=3, epochs=3, dies_at=5)
    assert [saved.step for saved in lived.log.bodies("checkpoint_saved")] == [0]
    lived.resume(task=other_arithmetic())

    (claim,) = lived.log.bodies("run_resumed")
    assert (claim.superseded, claim.from_step, claim.checkpoint_ref != "") == (True, 0, True)
    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, state.status) == (None, "completed")


def test_where_no_place_can_be_restored_nothing_is_void(lived):
    lived.train(seed=3, epochs=3, dies_at=5)
    before = list(lived.log.events)
    for saved in lived.log.bodies("checkpoint_saved"):
        (lived.objects.root / saved.ref.removeprefix("sha256:")[:2] / saved.ref.removeprefix("sha256:")[2:]).unlink()
    with pytest.raises(Diverged):
        lived.resume(task=other_arithmetic())

    assert lived.log.events == before, "a claim that cannot be kept is not made"


def test_the_second_of_two_starts_publishes_nothing(lived):
    """Both with one id, one after the other or at once: the history is the first one's alone."""
    lived.train(seed=3, policy="none", epochs=2)
    events = list(lived.log.events)
    with pytest.raises(Superseded, match="claimed before"):
        train(lived.config, lived.tiny(), LiveWorld(Outside(lived.log, REAL_CLOCK, lived.objects)), run_id="run")

    assert lived.log.events == events


def test_the_second_of_two_claims_stops(lived):
    lived.train(seed=3, dies_at=60)
    late = lived.recorded()
    lived.resume()
    written = len(lived.log.events)
    verifier = CommandVerifier(KEYS)
    outside = Outside(lived.log, REAL_CLOCK, lived.objects, verifier)
    with pytest.raises(Superseded, match="claimed before"):
        resume_run(late, lived.tiny(), outside, lived.log, verifier)

    assert len(lived.log.events) == written


def test_a_run_that_is_asked_to_stop_while_it_catches_up_loses_nothing_of_its_record(lived):
    """It follows its record to the end first: what is on record happened, and is not void."""
    lived.train(seed=3, dies_at=70)
    facts = len(lived.recorded().facts)
    lived.resume(should_stop=lambda: True)

    (claim,) = lived.log.bodies("run_resumed")
    assert not claim.superseded
    assert claim.accepted_sequence == facts
    assert lived.result.status == "interrupted"
    assert lived.replay().diverged is None


@pytest.mark.parametrize(
    ("call", "every", "why"),
    [(1, 1, "non_finite_loss at step 0"), (18, 2, "non_finite_loss at step 6"), (12, 1, "the fast rollback took")],
)
def test_a_run_that_halted_goes_on_from_before_that_once_it_is_mended(lived, other, call, every, why):
    """Its rollbacks, lowered rates and culls are void: it ends as the run that nothing was wrong with."""
    late = {"halt_at_missed_deadline": True, "clock": lived.slow_clock(1.0)} if "took" in why else {}
    asked = {"seed": 3, "epochs": 4, "checkpoint_every_epochs": every}
    other.train(**asked)
    lived.train(faults=range(call, 99), **asked, **late)
    assert lived.log.bodies("run_finished")[0].reason.startswith(why)
    lived.resume(task=tiny(per_sample_loss=Fault([])))

    assert lived.digests() == other.digests()
    (claim,) = lived.log.bodies("run_resumed")
    assert claim.superseded
    assert claim.reason.startswith(f"resumed from before it failed: {why}")
    assert lived.replay().diverged is None
