"""The decider's process: it answers, again with the same ids after a crash, and never falls over a bad packet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import COMMANDS, POLICIES, RUNS
from esper.errors import Superseded
from esper.leyline import envelope, ids
from esper.leyline.envelope import body_name, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.record import replay
from esper.tamiyo import weights
from esper.tamiyo.decide import rederived
from esper.tamiyo.network import make
from esper.tamiyo.serving import IN_FORCE_NS
from streams.metrics import Metrics
from streams.records import Record
from streams.trainer_log import KafkaLog
from tests.integration.oona.oona_processes import delete_before

KILLS = int(os.environ.get("ESPER_TEST_KILLS", "50"))


@pytest.fixture(scope="module")
def decider(log, data_dir, start_process):
    return start_process("decider", data_dir, log.address)


@pytest.fixture
def trainer_log(log, ring, run_id, metrics):
    with KafkaLog(log.address, ring, run_id=run_id, metrics=metrics) as trainer_log:
        yield trainer_log


def test_it_answers_with_a_decision_and_the_command_that_follows(decider, trainer_log, events, ring):
    packet = events.epoch()
    trainer_log.publish(packet)

    answer = trainer_log.await_answer(packet.event_id, 10.0)

    assert answer is not None
    made = envelope.parse(answer.decision.payload)
    assert made.event_id == ids.derived_id(packet.event_id, "tamiyo.decide", 0)
    assert made.causation_id == packet.event_id
    assert made.decision_made.packet_id == packet.event_id
    assert 0.0 < made.decision_made.latency_ms < 2000.0
    assert answer.command is not None
    command = envelope.parse(answer.command.payload)
    assert command.event_id == made.decision_made.command_id
    assert command.causation_id == made.event_id
    assert command.correlation_id == packet.event_id
    assert command.adaptation_command.seed_operation.operation == leyline_pb2.SEED_OPERATION_GERMINATE
    for signed in (answer.decision, answer.command):
        assert ring.verify(signed, time.time_ns()) is None
    assert trainer_log.take_commands() == []


def test_a_decision_for_nothing_has_no_command(decider, trainer_log, events):
    packet = events.epoch(policy="none")
    trainer_log.publish(packet)

    answer = trainer_log.await_answer(packet.event_id, 10.0)

    assert answer is not None
    assert answer.command is None


def test_packets_are_answered_in_their_order(decider, trainer_log, events, read_until):
    packets = [events.epoch(epoch=number) for number in range(6, 21)]
    for packet in packets:
        trainer_log.publish(packet)
    for packet in packets:
        assert trainer_log.await_answer(packet.event_id, 10.0) is not None

    found = read_until(lambda found: len(found) == 30, topics=(COMMANDS,))

    assert [event.decision_made.packet_id for event in found if body_name(event) == "decision_made"] == [
        packet.event_id for packet in packets
    ]
    assert [body_name(event) for event in found] == ["decision_made", "adaptation_command"] * 15


def test_a_large_observation_is_in_the_object_store_when_the_decision_arrives(decider, trainer_log, events, data_dir):
    packet = events.epoch(probe_loss_history=[1.0] * 5_000)
    trainer_log.publish(packet)

    answer = trainer_log.await_answer(packet.event_id, 10.0)

    assert answer is not None
    made = envelope.parse(answer.decision.payload).decision_made
    assert made.observation == b""
    content = ObjectStore(data_dir / "objects").get(made.observation_ref)
    assert content == packet.epoch_completed.SerializeToString(deterministic=True)
    assert made.observation_hash == hashlib.sha256(content).digest()


@pytest.mark.requirement("R-TAM-53", "R-TAM-56")
def test_a_promoted_policy_decides_and_one_that_is_wrong_is_refused_by_name(
    decider, trainer_log, events, objects, whole_topic, publishing
):
    content = weights.save(make(), "1.0.0")
    good, bad = objects.put(content), objects.put(content[:-4])
    promoted = [
        new_event(
            event_pb2.PolicyPromoted(policy_id="p", policy_version="1.0.0", weights_ref=ref),
            event_id=ids.derived_id(ref.encode(), "test"),
            run_id="",
            producer="simic",
            recorded_at_ns=time.time_ns() - 2 * IN_FORCE_NS,
        )
        for ref in (good, bad)
    ]

    async def promote():
        async with publishing() as publisher:
            await publisher.publish(promoted)

    asyncio.run(promote())
    said, deadline = {}, time.monotonic() + 60
    while len(said) < 2 and time.monotonic() < deadline:
        for event in asyncio.run(whole_topic(POLICIES)):
            if event.producer == "tamiyo":
                said[event.causation_id] = event
    assert [body_name(said[each.event_id]) for each in promoted] == ["policy_loaded", "policy_rejected"]
    assert said[promoted[1].event_id].policy_rejected.reason == "invalid_payload"
    packet, other = events.epoch(policy="learned"), events.epoch()
    for each in (packet, other):
        trainer_log.publish(each)
    learned, heuristic = (trainer_log.await_answer(each.event_id, 10.0) for each in (packet, other))

    made = [envelope.parse(each.decision.payload).decision_made for each in (learned, heuristic)]
    assert [(each.policy, each.policy_ref) for each in made] == [("learned", good), ("heuristic", "")]
    assert rederived(made[0], packet, objects) == ""


def test_an_answer_that_comes_after_the_wait_is_handed_on_as_a_late_command(decider, trainer_log, events):
    packet = events.epoch()
    trainer_log.publish(packet)

    assert trainer_log.await_answer(packet.event_id, 0.0) is None
    deadline = time.monotonic() + 10
    late = []
    while not late and time.monotonic() < deadline:
        late = trainer_log.take_commands()
        time.sleep(0.01)

    assert [envelope.parse(signed.payload).correlation_id for signed in late] == [packet.event_id]


def test_a_packet_that_cannot_be_answered_is_a_dead_letter_with_its_cause_and_the_next_one_is_answered(
    decider, trainer_log, events, log, ring, dead_letters
):
    bad, good = events.epoch(policy="astrology"), events.epoch()
    trainer_log.publish(bad)
    trainer_log.publish(good)

    assert trainer_log.await_answer(good.event_id, 10.0) is not None
    letters = [letter for letter in dead_letters() if letter.record == bad.SerializeToString(deterministic=True)]
    assert len(letters) == 1
    assert (letters[0].topic, letters[0].handler, letters[0].attempts) == ("esper.runs", "tamiyo", 3)
    assert "there is no policy 'astrology'" in letters[0].cause


@pytest.mark.requirement("R-SEC-10")
def test_an_unsigned_packet_is_not_answered(decider, log, run_id, events, metrics, trainer_log):
    with KafkaLog(log.address, KeyRing((b"f" * 32,)), run_id=run_id, metrics=metrics) as forger:
        forged = events.epoch()
        forger.publish(forged)
        forger.writer.flush()
    honest = events.epoch()
    trainer_log.publish(honest)

    assert trainer_log.await_answer(honest.event_id, 10.0) is not None
    assert trainer_log.await_answer(forged.event_id, 0.0) is None


def test_a_forged_decision_is_no_answer_but_a_forged_command_is_handed_on_to_be_rejected(
    log, trainer_log, events, run_id, metrics, read_until, ring
):
    packet = events.epoch(policy="nobody answers this here")
    decision = new_event(
        event_pb2.DecisionMade(packet_id=packet.event_id),
        event_id=ids.derived_id(packet.event_id, "tamiyo.decide"),
        run_id=run_id,
        producer="tamiyo",
        recorded_at_ns=time.time_ns(),
    )
    command = events.make(leyline_pb2.AdaptationCommand(command_id=ids.text(bytes(16)), issued_by="mallory"))
    with KafkaLog(log.address, KeyRing((b"f" * 32,)), run_id=run_id, metrics=Metrics()) as forger:
        forger.publish(decision)
        forger.publish(command)
        forger.writer.flush()

    assert trainer_log.await_answer(packet.event_id, 0.5) is None
    handed_on = trainer_log.take_commands()
    assert [envelope.parse(signed.payload).event_id for signed in handed_on] == [command.event_id]
    assert ring.verify(handed_on[0], time.time_ns()) == "invalid_signature"
    assert metrics.value("esper_security_signature_fail_total", topic="esper.commands", reason="invalid_signature") == 2
    trainer_log.flush()
    told = read_until(lambda found: any(body_name(event) == "security_violation" for event in found))
    assert told[-1].security_violation.topic == "esper.commands"


def test_a_retired_key_dated_back_neither_takes_a_run_over_nor_answers_for_tamiyo(log, ring, events, run_id):
    """Ruling 25: whoever has the old key can write any time into an event, and the log knows when it came."""
    old = b"o" * 32
    rotated = KeyRing(ring.secrets, retired={old: time.time_ns() - 60 * 10**9})
    long_ago_ns = time.time_ns() - 3600 * 10**9
    packet = events.epoch(policy="nobody answers this here")
    forged = [
        new_event(body, event_id=bytes([n] * 16), run_id=run_id, producer="x", recorded_at_ns=long_ago_ns, **fields)
        for n, (body, fields) in enumerate(
            [
                (event_pb2.RunResumed(accepted_sequence=1), {"incarnation": 2, "sequence": 2}),
                (event_pb2.DecisionMade(packet_id=packet.event_id), {}),
            ]
        )
    ]
    with (
        KafkaLog(log.address, rotated, run_id=run_id, metrics=Metrics()) as trainer_log,
        KafkaLog(log.address, KeyRing((old,)), run_id=run_id, metrics=Metrics()) as forger,
    ):
        trainer_log.publish(packet)
        for event in forged:
            forger.publish(event)
        forger.writer.flush()

        assert trainer_log.await_answer(packet.event_id, 0.5) is None
        trainer_log.flush()  # raises Superseded where the run was taken over


def test_of_two_starts_at_once_one_goes_on_and_a_later_one_publishes_nothing(log, ring, events, run_id, read):
    """Both claim with a start of their own, as `LiveWorld` does; the later one looks from where the archive ends."""
    starts = [events.make(event_pb2.RunStarted(task="x"), sequence=1, incarnation=1) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        first, second, late = (
            stack.enter_context(KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics(), archived=archived))
            for archived in (None, None, {})
        )
        with ThreadPoolExecutor(2) as pool:
            outcomes = [pool.submit(each.claim, start) for each, start in zip((first, second), starts, strict=False)]
        errors = [outcome.exception() for outcome in outcomes]
        (lost,) = [error for error in errors if error is not None]
        assert isinstance(lost, Superseded)
        assert "was started before, by another process" in str(lost)
        assert read(topics=(RUNS,)) != []
        written = len(read(topics=(RUNS,)))
        with pytest.raises(Superseded, match="give it another id"):
            late.claim(starts[2])

    facts = read(topics=(RUNS,))
    assert len(facts) == written
    assert errors.index(None) == starts.index(facts[0]), "the one that lies there first"
    state = replay(facts)
    assert (state.problem, state.incarnation) == (None, 1)


def test_a_start_knows_of_one_before_it_where_the_log_begins_behind_what_is_archived(log, ring, writer, events, run_id):
    """A reader that asks for what was deleted is set to the log's end, past the claim that it looks for."""
    first, second = (events.make(event_pb2.RunStarted(task="x"), sequence=1, incarnation=1) for _ in range(2))
    writer.publish(events.make(event_pb2.StateDigested(), sequence=9, incarnation=0))
    writer.flush()
    with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as owner:
        asyncio.run(
            delete_before(log.address, {place: end for place, end in owner.ends.items() if place[0] == RUNS.name})
        )
        owner.claim(first)
        with (
            KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics(), archived={}) as late,
            pytest.raises(Superseded, match="give it another id"),
        ):
            late.claim(second)


def test_a_start_learns_of_one_whose_claim_only_the_archive_has(log, ring, writer, events, run_id):
    """It had looked at the archive before that claim was there; a reader set to the log's end made it an owner too."""
    first, second = (events.make(event_pb2.RunStarted(task="x"), sequence=1, incarnation=1) for _ in range(2))
    asked = []

    def gone(partition, begin, end):
        asked.append((partition, begin, end))
        return archived

    writer.publish(events.make(event_pb2.StateDigested(), sequence=9, incarnation=0))
    writer.flush()
    with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as owner:
        owner.claim(first)
        before = owner.ends
    with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as reader:
        asyncio.run(
            delete_before(log.address, {place: end for place, end in reader.ends.items() if place[0] == RUNS.name})
        )
    (place,) = (place for place in before if place[0] == RUNS.name)
    archived = [Record(*place, before[place], time.time_ns() // 1_000_000, ring.sign(first.SerializeToString()))]
    with (
        KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics(), archived=before, gone=gone) as late,
        pytest.raises(Superseded, match="give it another id"),
    ):
        late.claim(second)

    assert asked == [(place[1], before[place], before[place] + 1)]


def test_a_trainer_that_the_log_left_behind_learns_that_its_run_is_anothers(log, ring, writer, events, run_id):
    """Its reader was set to the log's end, past the claim that lies where the log begins."""
    with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as owner:
        owner.claim(events.make(event_pb2.RunStarted(task="x"), sequence=1, incarnation=1))
        (place,) = owner._runs.assignment()
        owner.writer.thread.run(done(owner._runs.pause, place), 5.0)
        with KafkaLog(log.address, ring, run_id=run_id, metrics=Metrics()) as other:
            writer.publish(events.make(event_pb2.StateDigested(), sequence=2, incarnation=1))
            writer.flush()
            other.claim(events.make(event_pb2.RunResumed(accepted_sequence=1), sequence=2, incarnation=2))
        asyncio.run(delete_before(log.address, {place: owner.ends[tuple(place)] + 2}))
        owner.writer.thread.run(done(owner._runs.resume, place), 5.0)

        with pytest.raises(Superseded, match="taken over by another process"):
            owner.await_answer(bytes(16), 5.0)


async def done(act, *arguments):
    act(*arguments)


def arrived(trainer_log: KafkaLog) -> list:
    """The first loose commands that come within five seconds."""
    deadline = time.monotonic() + 5
    taken: list = []
    while not taken and time.monotonic() < deadline:
        taken = trainer_log.take_commands()
    return taken


def test_a_person_can_command_a_run(trainer_log, writer, events):
    command = events.make(leyline_pb2.AdaptationCommand(command_id=ids.text(bytes(16)), issued_by="ada"))
    writer.publish(command)
    writer.flush()

    assert [envelope.parse(signed.payload) for signed in arrived(trainer_log)] == [command]


def test_what_a_fork_commands_itself_does_not_come_back_to_it(trainer_log, writer, events):
    """It carried that command out already; what another says afterwards arrives."""
    own, another = (
        events.make(leyline_pb2.AdaptationCommand(command_id=ids.text(bytes([n] * 16)), issued_by=by))
        for n, by in ((1, "fork"), (2, "ada"))
    )
    trainer_log.publish(own)
    trainer_log.flush()
    writer.publish(another)
    writer.flush()

    assert [envelope.parse(signed.payload) for signed in arrived(trainer_log)] == [another]


def test_another_runs_commands_are_not_mine(trainer_log, log, ring, events, writer):
    stranger = type(events)("someone-else")
    writer.publish(stranger.make(leyline_pb2.AdaptationCommand(command_id=ids.text(bytes(16)))))
    writer.flush()
    time.sleep(0.2)

    assert trainer_log.take_commands() == []


@pytest.mark.requirement("R-OONA-6")
def test_after_a_kill_the_pending_packet_is_answered_and_answered_ones_keep_their_ids_and_commands(
    own_log, ring, run_id, events, processes, read
):
    decider = processes("decider", own_log.data_dir, own_log.address)
    with KafkaLog(own_log.address, ring, run_id=run_id, metrics=Metrics()) as trainer_log:
        answered = [events.epoch(epoch=number) for number in range(6, 11)]
        for packet in answered:
            trainer_log.publish(packet)
            assert trainer_log.await_answer(packet.event_id, 10.0) is not None
        decider.kill()
        pending = events.epoch(epoch=11)
        trainer_log.publish(pending)
        trainer_log.flush()
        decider.start()

        assert trainer_log.await_answer(pending.event_id, 15.0) is not None
        assert trainer_log.take_commands() == [], "a redelivered command is not taken for a late one"
    found = read(address=own_log.address, topics=(COMMANDS,))

    decisions = [event for event in found if body_name(event) == "decision_made"]
    assert len(decisions) > 6, "the kill came before the offsets were committed: some packets were answered twice"
    expected = {ids.derived_id(packet.event_id, "tamiyo.decide", 0) for packet in (*answered, pending)}
    assert {event.event_id for event in decisions} == expected
    commands = {}
    for event in found:
        if body_name(event) == "adaptation_command":
            commands.setdefault(event.event_id, set()).add(event.SerializeToString(deterministic=True))
    assert len(commands) == 6
    assert all(len(bodies) == 1 for bodies in commands.values()), "byte for byte the same"


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.requirement("R-TAM-53", "R-TAM-56")
def test_a_decider_that_is_killed_in_the_middle_of_swaps_answers_every_packet_once(
    own_log, ring, run_id, events, processes, read, whole_topic, publishing
):
    """Fifty kills, each at another moment of a swap: a packet answered again is answered by the same policy."""
    objects = ObjectStore(own_log.data_dir / "objects")
    decider, chance = processes("decider", own_log.data_dir, own_log.address), random.Random(14)
    packets, promoted = [], []

    async def promote(seed):
        ref = objects.put(weights.save(make("small", seed), f"{seed}.0.0"))
        body = event_pb2.PolicyPromoted(policy_id="p", policy_version=f"{seed}.0.0", weights_ref=ref)
        event_id = ids.derived_id(ref.encode(), "test")
        now_ns = time.time_ns()
        promoted.append(new_event(body, event_id=event_id, run_id="", producer="simic", recorded_at_ns=now_ns))
        async with publishing(address=own_log.address) as publisher:
            await publisher.publish(promoted[-1:])

    asyncio.run(promote(0))
    time.sleep(IN_FORCE_NS / 1e9)
    with KafkaLog(own_log.address, ring, run_id=run_id, metrics=Metrics()) as trainer_log:
        for kill in range(1, KILLS + 1):
            asyncio.run(promote(kill))
            until = time.monotonic() + chance.uniform(0.0, 1.5 * IN_FORCE_NS / 1e9)
            while time.monotonic() < until:
                packets.append(events.epoch(epoch=1 + len(packets), epochs_total=10_000, policy="learned"))
                trainer_log.publish(packets[-1])
                time.sleep(0.2)
            trainer_log.flush()
            decider.kill()
            decider.start()
        for packet in packets:
            assert trainer_log.await_answer(packet.event_id, 60.0) is not None
    found = read(address=own_log.address, topics=(COMMANDS,))
    said = [
        event for event in asyncio.run(whole_topic(POLICIES, address=own_log.address)) if event.producer == "tamiyo"
    ]

    made = {packet.event_id: set() for packet in packets}
    for event in found:
        if body_name(event) == "decision_made":
            body = event.decision_made
            made[body.packet_id].add((event.event_id, body.policy_ref, body.action, tuple(body.logits)))
    assert {len(each) for each in made.values()} == {1}
    assert len({ref for ((_, ref, _, _),) in made.values()}) > KILLS // 3
    assert {event.causation_id for event in said} <= {event.event_id for event in promoted}
    assert {body_name(event) for event in said} == {"policy_loaded"}


def test_a_broker_that_is_killed_while_a_packet_waits_comes_back_to_an_answer(own_log, ring, run_id, events, processes):
    processes("decider", own_log.data_dir, own_log.address)
    with KafkaLog(own_log.address, ring, run_id=run_id, metrics=Metrics()) as trainer_log:
        for number in range(1, 4):
            packet = events.epoch(epoch=number)
            if number == 2:
                own_log.crash()
            trainer_log.publish(packet)
            if number == 2:
                own_log.restart()
            assert trainer_log.await_answer(packet.event_id, 20.0) is not None


def test_it_is_healthy_and_exports_what_it_did(decider, trainer_log, events, scrape):
    packet = events.epoch()
    trainer_log.publish(packet)
    assert trainer_log.await_answer(packet.event_id, 10.0) is not None

    health, samples = scrape(decider)

    assert health.status_code == 200
    assert health.json()["checks"] == {"log": "ok", "group": "ok"}
    assert samples["esper_tamiyo_inference_latency_seconds_count"] >= 1
    assert samples["esper_oona_log_up"] == 1
    assert all(name.startswith("esper_") for name in samples)


def test_of_three_machines_the_one_that_is_left_without_a_partition_stands_by(own_log, processes, scrape, tmp_path):
    """Faust gives two of them two each of the four."""
    homes = [tmp_path / name for name in "abc"]
    for home in homes:
        home.mkdir()
    machines = [processes("decider", home, own_log.address, env={"ESPER_BROKERS": own_log.address}) for home in homes]

    for machine in machines:
        deadline = time.monotonic() + 20
        while (health := scrape(machine)[0]).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)  # the group is still sharing out
        assert health.json()["checks"] == {"log": "ok", "group": "ok"}


@pytest.mark.serial
def test_it_is_unhealthy_while_the_log_is_away(own_log, processes, scrape):
    decider = processes("decider", own_log.data_dir, own_log.address)
    own_log.crash()
    deadline = time.monotonic() + 15
    while (health := scrape(decider)[0]).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.2)

    assert health.status_code == 503
    assert "silent" in health.json()["checks"]["log"]
    code, seconds = decider.terminate()
    assert code == 0
    assert seconds < 2.5, "it ends in time without the log, too"


@pytest.mark.serial
def test_it_ends_within_two_seconds_of_sigterm_and_says_where_it_is_while_it_runs(own_log, processes):
    decider = processes("decider", own_log.data_dir, own_log.address)
    targets = json.loads((own_log.data_dir / "run" / "decider.json").read_text())

    code, seconds = decider.terminate()

    assert targets[0]["targets"] == [f"127.0.0.1:{decider.ready['health_port']}"], "what Prometheus scrapes"
    assert code == 0
    assert seconds < 2.0


@pytest.mark.requirement("R-SEC-2")
def test_without_a_key_an_outside_log_is_refused_in_one_line(tmp_path, run_module):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESPER_")}
    code, said = run_module("decider", "--data-dir", str(tmp_path), "--brokers", "redpanda:9092", env=environment)

    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith("decider: the log at redpanda:9092 needs a signing key")


def test_without_a_log_it_says_so_in_one_line(tmp_path, run_module):
    code, said = run_module("decider", "--data-dir", str(tmp_path), "--brokers", "127.0.0.1:1")

    assert code == 1
    assert said.startswith("decider: no log answers at 127.0.0.1:1")
    assert said.count("\n") == 1


def test_facts_that_are_no_packets_are_read_over(decider, trainer_log, events, read):
    for _ in range(50):
        trainer_log.publish(events.fact())
    packet = events.epoch()
    trainer_log.publish(packet)

    assert trainer_log.await_answer(packet.event_id, 10.0) is not None
    assert len(read(topics=(RUNS,))) == 51
