"""What each incarnation of a run computed with is on record, and a difference is named with the steps that it is of."""

from __future__ import annotations

import pytest

from esper.tolaria.machine import differences, machine_of, this_machine, unrecorded


@pytest.fixture
def resumed(lived):
    """A run that a second process went on with after its third epoch."""
    lived.train(seed=3, policy="none", epochs=4, dies_at=12).resume()
    return lived


def facts_of(lived, **changes):
    """Its facts; what `changes` say is another in the claim of its second incarnation."""
    events = lived.copies()
    for event in events:
        if event.HasField("run_resumed"):
            for name, value in changes.items():
                setattr(event.run_resumed.machine, name, value)
    return lived.recorded(events).facts


def test_every_claim_says_what_its_process_computes_with(resumed):
    first, second = (
        fact for fact in resumed.recorded().facts if fact.WhichOneof("body") in ("run_started", "run_resumed")
    )

    for claim in (first, second):
        machine = machine_of(claim)
        assert (machine.processor, machine.torch_build, machine.cpu_capability) != ("", "", "")
        assert machine.library_versions["torch"] == first.run_started.library_versions["torch"]
        assert machine.threads == first.run_started.threads
    assert differences(resumed.recorded().facts, resumed.tiny().fingerprint()) == []
    assert unrecorded(resumed.recorded().facts) == ""


def test_a_stretch_of_another_processor_is_named_with_its_beginning(resumed):
    facts = facts_of(resumed, processor="Z80", cpu_capability="DEFAULT")
    (step,) = {fact.global_step for fact in facts if fact.HasField("run_resumed")}
    here = this_machine("")

    assert step > 0
    assert differences(facts, resumed.tiny().fingerprint()) == [
        f"from step {step} on processor Z80 then, {here.processor} now",
        f"from step {step} on CPU capability DEFAULT then, {here.cpu_capability} now",
    ]


def test_what_an_older_record_does_not_say_is_no_difference_and_can_be_asked_for(resumed):
    """Its versions and CPU capability are in other fields, its processor and torch build nowhere."""
    events = resumed.copies()
    for event in events:
        if event.WhichOneof("body") in ("run_started", "run_resumed"):
            getattr(event, event.WhichOneof("body")).ClearField("machine")
    older = resumed.recorded(events).facts
    here = this_machine("")

    assert differences(older, resumed.tiny().fingerprint()) == []
    assert unrecorded(older) == (
        f"processor and torch build are not on record; here they are {here.processor} and {here.torch_build}"
    )
    older[0].run_started.cpu_capability = "DEFAULT"
    assert differences(older, resumed.tiny().fingerprint()) == [
        f"CPU capability DEFAULT then, {here.cpu_capability} now"
    ]
