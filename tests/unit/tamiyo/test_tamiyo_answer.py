"""The answer to a packet: one chain of ids, the same bytes for the same packet, small, quick and without torch."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time

import pytest

from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    SEED_OPERATION_CULL,
    SEED_OPERATION_GERMINATE,
)
from esper.errors import ContractViolation, InvalidInput
from esper.kasmina.lifecycle import PROBATIONARY
from esper.leyline import ids
from esper.leyline.envelope import body_name, parse
from esper.tamiyo.answer import answer
from esper.tamiyo.decide import draw_for, pick
from esper.tamiyo.policies import find
from esper.testing import FakeClock

STOPPED = FakeClock().clock.monotonic


@pytest.mark.requirement("R-TAM-17")
def test_a_packet_that_calls_for_growth_gets_a_decision_and_its_command(make_state, make_packet):
    packet = make_packet(make_state())
    answered = answer(packet, now_ns=77, monotonic=STOPPED)
    assert [body_name(event) for event in answered.events] == ["decision_made", "adaptation_command"]
    assert answered.objects == []
    decision, command = answered.events
    made = decision.decision_made
    assert decision.event_id == ids.derived_id(packet.event_id, "tamiyo.decide", 0)
    assert command.event_id == made.command_id == ids.derived_id(packet.event_id, "tamiyo.command", 0)
    assert (decision.causation_id, command.causation_id) == (packet.event_id, decision.event_id)
    assert {event.correlation_id for event in answered.events} == {packet.event_id}
    assert {(event.run_id, event.producer, event.epoch, event.global_step) for event in answered.events} == {
        (packet.run_id, "tamiyo", 8, 160)
    }
    assert made.actions[made.action] == "germinate s1 BP009"
    assert made.packet_id == packet.event_id
    assert decision.recorded_at_ns == 77
    body = command.adaptation_command
    assert body.command_id == ids.text(made.command_id)
    assert (body.version, body.command_type, body.issued_by) == (1, COMMAND_TYPE_SEED, "tamiyo")
    assert (body.target_seed_id, body.seed_operation.operation) == ("s1", SEED_OPERATION_GERMINATE)
    assert body.seed_operation.blueprint_id == "BP009"
    assert body.issued_at.ToNanoseconds() == packet.recorded_at_ns


def test_doing_nothing_is_a_decision_without_a_command(make_state, make_packet):
    (decision,) = answer(make_packet(make_state(policy="none")), now_ns=1, monotonic=STOPPED).events
    assert decision.decision_made.command_id == b""
    assert decision.decision_made.actions[decision.decision_made.action] == "nothing"


@pytest.mark.requirement("R-TAM-41")
def test_a_redelivered_packet_gives_the_same_ids_and_the_same_command_byte_for_byte(
    make_state, make_packet, make_window
):
    packet = make_packet(make_state(windows=[make_window()]))
    first, again = (
        answer(packet, now_ns=1, monotonic=STOPPED),
        answer(parse(packet.SerializeToString()), now_ns=999, monotonic=STOPPED),
    )
    assert [event.event_id for event in first.events] == [event.event_id for event in again.events]
    assert [e.WhichOneof("body") for e in first.events] == ["decision_made", "adaptation_command", "field_report"]
    one, two = (answered.events[1].SerializeToString(deterministic=True) for answered in (first, again))
    assert one == two
    assert first.events[0].decision_made == again.events[0].decision_made
    assert first.events[2].field_report == again.events[2].field_report


def test_a_decision_says_how_long_deciding_took_and_nothing_else_depends_on_it(make_state, make_packet, make_window):
    packet = make_packet(make_state(windows=[make_window()]))
    slow, quick = (
        answer(packet, now_ns=1, monotonic=itertools.count(start=5.0, step=step).__next__) for step in (0.25, 0.001)
    )

    assert slow.events[0].decision_made.latency_ms == 250.0
    assert quick.events[0].decision_made.latency_ms == pytest.approx(1.0)
    for answered in (slow, quick):
        answered.events[0].decision_made.ClearField("latency_ms")
    assert slow == quick


@pytest.mark.parametrize("policy", ["heuristic", "random", "none"])
def test_the_decision_event_alone_derives_the_choice_again(make_state, make_packet, policy):
    for epoch in range(1, 30):
        decision = answer(make_packet(make_state(policy=policy, epoch=epoch)), now_ns=1, monotonic=STOPPED).events[0]
        made = parse(decision.SerializeToString()).decision_made
        assert len(made.actions) == len(made.action_mask) == len(made.logits)
        mask = [bool(byte) for byte in made.action_mask]
        assert pick(list(made.logits), mask, made.draw, greedy=find(made.policy).greedy) == made.action
        assert hashlib.sha256(made.observation).digest() == made.observation_hash
        assert made.policy_hash == find(policy).digest


def test_a_long_observation_goes_to_the_object_store(make_state, make_packet):
    history = [1.5] * 1500
    packet = make_packet(make_state(probe_loss_history=history))
    answered = answer(packet, now_ns=1, monotonic=STOPPED)
    made = answered.events[0].decision_made
    (stored,) = answered.objects
    assert len(stored) > 4096
    assert made.observation == b""
    assert made.observation_ref == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert made.observation_hash == hashlib.sha256(stored).digest()


def test_other_events_and_unknown_policies_are_refused(make_state, make_packet):
    with pytest.raises(InvalidInput, match="no policy 'oracle'; choose heuristic, random, explore, none"):
        answer(make_packet(make_state(policy="oracle")), now_ns=1, monotonic=STOPPED)
    decision = answer(make_packet(make_state()), now_ns=1, monotonic=STOPPED).events[0]
    with pytest.raises(ContractViolation, match="not decision_made"):
        answer(decision, now_ns=1, monotonic=STOPPED)


def test_a_cull_names_the_seed(make_state, make_packet):
    sick = {"stage": PROBATIONARY, "contribution": -0.2, "contribution_stderr": 0.01, "loss_before": 2.0}
    command = (
        answer(make_packet(make_state(seeds={"s2": sick})), now_ns=1, monotonic=STOPPED).events[1].adaptation_command
    )
    assert (command.target_seed_id, command.seed_operation.operation) == ("s2", SEED_OPERATION_CULL)


@pytest.mark.requirement("R-TAM-52")
def test_payloads_hold_their_size_limits(make_state, make_packet, make_window):
    packet = make_packet(make_state(windows=[make_window()]))
    _, command, report = answer(packet, now_ns=packet.recorded_at_ns + 3_000_000, monotonic=STOPPED).events
    assert command.adaptation_command.ByteSize() < 280
    assert report.field_report.ByteSize() < 280
    for event, body in ((command, command.adaptation_command), (report, report.field_report)):
        assert event.ByteSize() - body.ByteSize() <= 120


def test_draws_differ_by_place_and_repeat_with_it():
    draws = {draw_for(seed, timeline, epoch) for seed in (1, 2) for timeline in (1, 2) for epoch in range(50)}
    assert len(draws) == 200
    assert all(0.0 <= draw < 1.0 for draw in draws)
    assert 0.4 < sum(draws) / len(draws) < 0.6
    assert draw_for(1, 1, 5) == draw_for(1, 1, 5)


@pytest.mark.requirement("R-TAM-40")
@pytest.mark.serial
def test_an_answer_takes_well_under_a_millisecond(make_state, make_packet, make_window):
    packet = make_packet(make_state(windows=[make_window()], probe_loss_history=[1.0] * 40))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        answer(packet, now_ns=1, monotonic=STOPPED)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 1e-3


def test_deciding_needs_no_torch():
    program = "import sys, esper.tamiyo.answer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
