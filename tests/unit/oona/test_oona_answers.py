"""Pairing decisions and commands with packets: answered, late, repeated, from a person, unsigned."""

from __future__ import annotations

import threading
import time

from contracts.leyline.v1.event_pb2 import DecisionMade
from contracts.leyline.v1.leyline_pb2 import AdaptationCommand
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing, Signed
from streams.records import outgoing
from streams.trainer_log import Answers

RING = KeyRing((b"k" * 32,))
PACKET = ids.uuid7(1, bytes(10))


def decision(packet=PACKET, *, acts=True, reason=""):
    command_id = ids.derived_id(packet, "tamiyo.command") if acts else b""
    return _event(
        DecisionMade(packet_id=packet, command_id=command_id, reason=reason), ids.derived_id(packet, "tamiyo.decide")
    )


def command(command_id=None, *, by="tamiyo"):
    command_id = command_id or ids.derived_id(PACKET, "tamiyo.command")
    return _event(AdaptationCommand(command_id=ids.text(command_id), issued_by=by), command_id)


def _event(body, event_id):
    return new_event(body, event_id=event_id, run_id="run", producer="tamiyo", recorded_at_ns=1)


def bring(answers, *events):
    signed = [RING.sign(outgoing(event).payload) for event in events]
    for event, one in zip(events, signed, strict=True):
        answers.arrived(event, one)
    return signed


def test_a_decision_with_its_command_answers_the_packet():
    answers = Answers()
    answers.expect(PACKET)
    made, follows = bring(answers, decision(), command())

    answer = answers.wait(PACKET, 0.0)

    assert answer is not None
    assert (answer.decision, answer.command) == (made, follows)
    assert answers.take_loose() == []


def test_a_decision_for_nothing_answers_alone():
    answers = Answers()
    answers.expect(PACKET)
    (made,) = bring(answers, decision(acts=False))

    answer = answers.wait(PACKET, 0.0)

    assert answer is not None
    assert (answer.decision, answer.command) == (made, None)


def test_a_decision_whose_command_has_not_come_is_no_answer_yet():
    answers = Answers()
    answers.expect(PACKET)
    bring(answers, decision())

    assert answers.wait(PACKET, 0.01) is None
    (late,) = bring(answers, command())
    assert answers.take_loose() == [late]


def test_waiting_ends_when_the_answer_arrives():
    answers = Answers()
    answers.expect(PACKET)
    threading.Timer(0.05, bring, args=(answers, decision(), command())).start()
    started = time.monotonic()

    assert answers.wait(PACKET, 5.0) is not None
    assert time.monotonic() - started < 4.0


def test_a_late_command_is_loose_and_its_decision_is_not_kept():
    answers = Answers()
    answers.expect(PACKET)
    assert answers.wait(PACKET, 0.0) is None

    _, late = bring(answers, decision(), command())

    assert answers.take_loose() == [late]
    assert answers.take_loose() == []


def test_an_identical_redelivery_is_neither_an_answer_nor_loose():
    answers = Answers()
    answers.expect(PACKET)
    bring(answers, decision(), command())
    assert answers.wait(PACKET, 0.0) is not None

    bring(answers, decision(), command())

    assert answers.take_loose() == []


def test_another_command_under_an_answered_id_is_handed_on_to_be_judged():
    answers = Answers()
    answers.expect(PACKET)
    bring(answers, decision(), command())
    assert answers.wait(PACKET, 0.0) is not None

    (forged,) = bring(answers, command(by="someone else"))

    assert answers.take_loose() == [forged]


def test_the_first_of_two_decisions_on_a_packet_counts():
    answers = Answers()
    answers.expect(PACKET)
    first, _ = bring(answers, decision(acts=False, reason="first"), decision(acts=False, reason="second"))

    answer = answers.wait(PACKET, 0.0)

    assert answer is not None
    assert answer.decision == first


def test_a_persons_command_and_an_unsigned_one_are_loose_in_their_order():
    answers = Answers()
    unsigned = Signed(outgoing(command(ids.uuid7(2, bytes(10)))).payload)
    (persons,) = bring(answers, command(ids.uuid7(3, bytes(10)), by="ada"))
    answers.arrived_unverified(unsigned)

    assert answers.take_loose() == [persons, unsigned]


def test_answers_to_two_open_packets_do_not_mix():
    answers = Answers()
    other = ids.uuid7(1, bytes([1] * 10))
    answers.expect(PACKET)
    answers.expect(other)
    bring(answers, decision(other, acts=False, reason="other"), decision(acts=False, reason="this"))

    first, second = answers.wait(PACKET, 0.0), answers.wait(other, 0.0)

    assert first is not None
    assert b"this" in first.decision.payload
    assert second is not None
    assert b"other" in second.decision.payload


def test_what_was_dealt_with_before_is_dropped_when_it_comes_again():
    answers = Answers()
    loose = command(by="a person")
    answers.known(RING.sign(outgoing(loose).payload))
    bring(answers, loose)

    assert answers.take_loose() == []


def test_whoever_waits_is_let_go_when_there_is_nothing_to_wait_for():
    answers = Answers()
    answers.expect(PACKET)
    threading.Timer(0.05, answers.give_up).start()

    assert answers.wait(PACKET, 60.0) is None
