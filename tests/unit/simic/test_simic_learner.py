"""A round of learning from experience to signed events, and what Simic says of its own health."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from contracts.leyline.v1.leyline_pb2 import (
    HEALTH_STATUS_CRITICAL,
    HEALTH_STATUS_DEGRADED,
    HEALTH_STATUS_HEALTHY,
    TELEMETRY_LEVEL_WARNING,
)
from esper.errors import Interrupted, InvalidInput, LogUnavailable
from esper.leyline.objects import ObjectStore
from esper.simic import health as simic_health
from esper.simic import publication
from esper.simic.gates import Evidence, Paired
from esper.simic.health import BREAKERS, GIB, Breakers, conservative, health
from esper.simic.learner import Learner, LearnerSettings
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import TrainingSettings
from esper.simic.versions import Versions, fold
from esper.tamiyo import weights
from esper.tamiyo.decide import decide
from esper.tamiyo.policies import learned
from esper.testing import KEYS, FakeClock

ROOT = Path(__file__).parents[3]
SETTINGS = LearnerSettings(
    training=TrainingSettings(epochs=2, steps_per_epoch=2, batch=8, temperature=0.05),
    buffer=BufferSettings(minimum=8),
)


def learner_of(folder, clock=None) -> Learner:
    clock = clock or FakeClock()
    return Learner(
        ObjectStore(folder / "objects"),
        KEYS,
        SETTINGS,
        monotonic=clock.clock.monotonic,
        now_ns=clock.clock.wall_ns,
        memory_bytes=lambda: GIB,
    )


def evidence_of(corpus, observations, gain: float):
    """What a candidate is judged by where every run came to `gain` more."""

    def evaluate(_candidate: bytes, _live: bytes | None, trained) -> Evidence:
        pairs = Paired("utility", [-1.0 + gain] * 8, [-1.0] * 8, higher_is_better=True)
        return Evidence(pairs, [], trained.figures, corpus[:13], observations[:3])

    return evaluate


@pytest.mark.requirement("R-SIM-47")
def test_a_training_that_holds_too_much_memory_stops_once_its_checkpoint_is_saved(corpus, observations, tmp_path):
    held, saved = iter([GIB, 12 * GIB]), list[bytes]()
    learner = learner_of(tmp_path)
    learner._memory_bytes = lambda: next(held, GIB)
    learner.store(corpus, Versions())
    judge = evidence_of(corpus, observations, 0.1)

    with pytest.raises(Interrupted, match=r"holds 12\.0 GiB of memory and may hold 12"):
        learner.learn(Versions(), judge, save=saved.append)

    assert len(saved) == 2


def bodies(events) -> list[str]:
    return [event.WhichOneof("body") for event in events]


@pytest.mark.requirement("R-SIM-27", "R-SIM-28", "R-SIM-35", "R-SIM-41")
def test_a_round_ends_on_the_log_and_what_passed_decides(corpus, observations, tmp_path):
    learner = learner_of(tmp_path)
    assert learner.store(corpus, Versions()) == len(corpus)

    good = learner.learn(Versions(), evidence_of(corpus, observations, 0.1), command="esper learn")
    offered = fold(good.events)
    promoted = publication.promotion(
        offered, offered.find(good.version), by="ada", reason="better", architecture="tamiyo_gnn_v1", now_ns=1
    )
    live = fold([*good.events, promoted])
    bad = learner.learn(live, evidence_of(corpus, observations, -0.1))

    assert bodies(good.events) == ["policy_trained", "policy_validated", "policy_update", "telemetry_packet"]
    assert bodies(bad.events) == ["policy_trained", "policy_validated", "policy_rejected", "telemetry_packet"]
    # What is served is what was trained: it loads in Tamiyo with nothing missing, and decides.
    update = good.events[2].policy_update
    served = learned.policy(update.payload_ref, ObjectStore(tmp_path / "objects"))
    assert decide(observations[0], served, 0.5).mask
    assert weights.load(good.weights).provenance["command"] == "esper learn"
    # The rejected one changes nothing, and warns.
    after = fold([*good.events, promoted, *bad.events])
    assert (after.live, after.by_name[bad.version].state) == ("1.0.0", "rejected")
    packet = bad.events[-1].telemetry_packet
    figures = {metric.name: metric.value for metric in packet.metrics}
    assert packet.level == TELEMETRY_LEVEL_WARNING
    assert packet.events[0].event_id == "simic.validation_failed"
    assert "performance: utility -0.1000" in packet.events[0].description
    assert figures["simic.validation.pass"] == 0.0
    assert {
        "simic.training.loss", "simic.training.lr", "simic.buffer.size", "simic.buffer.memory_mb",
        "simic.training.breaker_state", "simic_training_time_ms", "simic_throughput_exp_sec",
        "simic_memory_usage_gb", "simic_slo_compliance",
    } <= figures.keys()  # fmt: skip
    assert after.by_name[bad.version].provenance["parent"] == "1.0.0"


def test_a_round_that_was_ended_and_begun_again_says_the_same_under_the_same_ids(corpus, observations, tmp_path):
    saved: list[bytes] = []
    whole = learner_of(tmp_path)
    whole.store(corpus, Versions())
    first = whole.learn(Versions(), evidence_of(corpus, observations, 0.1), save=saved.append)
    again = learner_of(tmp_path)
    again.store(corpus, Versions())
    second = again.learn(Versions(), evidence_of(corpus, observations, 0.1), resume=saved[0])

    assert second.weights == first.weights
    assert [event.event_id for event in second.events] == [event.event_id for event in first.events]
    assert fold([*first.events, *second.events]) == fold(first.events)


def test_too_little_experience_is_an_error_and_nothing_is_published(corpus, observations, tmp_path):
    learner = learner_of(tmp_path)
    learner.store(corpus[:3], Versions())

    with pytest.raises(InvalidInput, match="insufficient data: 3 experiences"):
        learner.learn(Versions(), evidence_of(corpus, observations, 0.1))
    assert not (tmp_path / "objects").exists()


@pytest.mark.requirement("R-SIM-14")
@pytest.mark.parametrize("name", BREAKERS)
def test_each_kind_of_work_has_a_breaker_that_opens_and_is_tried_again(name):
    clock = FakeClock()
    breakers = Breakers(clock.clock.monotonic)
    failures, reset_s = BREAKERS[name]

    def fail() -> None:
        with breakers.guard(name):
            raise LogUnavailable("no")

    for _ in range(failures):
        with pytest.raises(LogUnavailable):
            fail()
    with pytest.raises(InvalidInput, match=f"breaker for {name} is open"):
        fail()
    assert breakers.any_open
    clock.advance(reset_s)
    with breakers.guard(name):
        pass
    assert not breakers.any_open
    assert [change.breaker for change in breakers.changes] == [f"simic.{name}"] * 3


@pytest.mark.requirement("R-SIM-13", "R-SIM-42", "R-SIM-46", "R-SIM-47")
def test_health_says_what_is_wrong_and_care_is_taken(corpus):
    breakers, buffer = Breakers(lambda: 0.0), ReplayBuffer(BufferSettings(minimum=1))
    buffer.store(corpus[0])
    figures = {"simic_training_time_ms": 100.0}

    def ask(memory_bytes=GIB, passed=(), buffer=buffer, figures=figures):
        return health(breakers, buffer, figures, memory_bytes=memory_bytes, passed=passed)

    assert (ask().status, ask().problems, ask().figures["simic_slo_compliance"]) == (HEALTH_STATUS_HEALTHY, [], 1.0)
    assert ask(memory_bytes=12 * GIB).status == HEALTH_STATUS_CRITICAL
    assert ask(buffer=ReplayBuffer()).problems == ["0 experiences are too few to train on"]
    slow = ask(figures={"simic_training_time_ms": 600.0}, passed=[True, False])
    assert slow.figures["simic_slo_compliance"] == 0.5
    assert (slow.status, slow.figures["simic.slo.step_time"]) == (HEALTH_STATUS_HEALTHY, 0.0)
    assert not conservative(breakers, buffer)
    buffer.nbytes = 5 * GIB
    assert ask().status == HEALTH_STATUS_DEGRADED
    assert conservative(breakers, buffer)
    buffer.nbytes = 6 * GIB
    assert ask().problems == ["the replay buffer holds 6.0 GiB"]
    assert ask().status == HEALTH_STATUS_CRITICAL
    buffer.nbytes = 0
    assert conservative(breakers, buffer, restored=1)
    for _ in range(5):
        with pytest.raises(RuntimeError), breakers.guard("training"):
            raise RuntimeError("out of memory")
    assert ask().problems == ["the breaker for training is open"]
    assert conservative(breakers, buffer)


@pytest.mark.requirement("R-SIM-14")
def test_a_learner_whose_breaker_is_open_does_not_train(corpus, observations, tmp_path, monkeypatch):
    learner = learner_of(tmp_path)
    learner.store(corpus, Versions())
    monkeypatch.setattr("esper.simic.trainer.judge", lambda *_: (_ for _ in ()).throw(RuntimeError("device lost")))
    for _ in range(5):
        with pytest.raises(RuntimeError, match="device lost"):
            learner.learn(Versions(), evidence_of(corpus, observations, 0.1))

    with pytest.raises(InvalidInput, match="breaker for training is open"):
        learner.learn(Versions(), evidence_of(corpus, observations, 0.1))
    assert learner.report({}, Versions(), now_ns=1).telemetry_packet.system_health.status == HEALTH_STATUS_CRITICAL


@pytest.mark.requirement("R-SIM-44")
def test_nothing_that_trains_or_decides_imports_simic():
    """Learning is a process of its own: what trains a run and what decides about it cannot even reach it."""
    rooms = ["tolaria", "kasmina", "tamiyo", "karn", "urza", "tezzeret", "leyline", "record", "nissa", "weatherlight"]
    found = [
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / "esper" / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and any("esper.simic" in name for name in [getattr(node, "module", "") or "", *(a.name for a in node.names)])
    ]

    assert found == []
    assert simic_health.__name__ == "esper.simic.health"
