"""Drills: every alert fires once and clears once on what the real code publishes, and on nothing else (R-OPS-7)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.cli.drills.table import DRILLS, RUNBOOK
from esper.kasmina.isolation import Isolation
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.nissa.alerts import RULES, evolve_alerts, evolve_ended
from esper.nissa.catalogue import BY_NAME, prometheus_form
from esper.nissa.measure import measure
from esper.testing import KEYS, FakeClock, MemoryLog, seed_command, signed
from esper.tezzeret import events
from esper.tezzeret.jobs import Place, evolve, request
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from streams.agents.scraped import scraped
from streams.entry import scraped as scraped_by
from streams.health import HealthServer
from streams.metrics import Metrics


def watched(published):
    """What the events fire (+) and clear (-), in order; each is folded at the time at which it was recorded."""
    watches, told = {}, []
    for event in published:
        for sample in measure(event):
            watches, alert = evolve_alerts(watches, sample, event.recorded_at_ns / 1e9)
            if alert is not None:
                told.append(("+" if alert.active else "-") + alert.rule.name)
        if event.WhichOneof("body") == "run_finished":
            watches, cleared = evolve_ended(watches, event.run_id)
            told += [f"-{alert.rule.name}" for alert in cleared]
    return told


def test_every_point_of_an_epoch_s_packet_is_kept(tmp_path):
    """As a real run publishes it: 22 figures, each a series of its run."""
    published = trained(tmp_path, [1, 1])
    packets = [each for each in published if each.telemetry_packet.source_subsystem == "tolaria"]
    points = {point.name for each in packets for point in each.telemetry_packet.metrics}
    found = {sample.name for each in packets for sample in measure(each)}

    assert len(points) == 22
    assert found - {"esper_telemetry_packets_total"} == {prometheus_form(name, 0.0)[0] for name in points}
    assert "esper_nissa_telemetry_unknown_total" not in found


class SlowLog(MemoryLog):
    """A log whose answers take so many milliseconds each."""

    def __init__(self, clock, objects, answers_ms):
        super().__init__(clock.clock, objects=objects)
        self._moving, self._answers_ms = clock, iter(answers_ms)

    def await_answer(self, packet_id, timeout_s):
        self._moving.advance(next(self._answers_ms) / 1e3)
        return super().await_answer(packet_id, timeout_s)


def trained(folder, answers_ms, *, policy="heuristic", germinate_after=None):
    """The events of a run of so many epochs. Its epochs take a minute each, which must fire nothing."""
    clock, objects = FakeClock(), ObjectStore(folder / "objects")
    log = SlowLog(clock, objects, answers_ms)
    inputs = torch.randn(96, 4, generator=torch.Generator().manual_seed(5))
    data = Samples(inputs, inputs.argmax(dim=1))
    task = Task(
        name="tiny",
        make_host=lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)),
        train=data,
        probe=data,
        test=data,
        sites=(Site("1", "vector"),),
        epochs=len(answers_ms),
        batch_size=48,
        learning_rate=1e-2,
    )
    steps = iter(range(10**6))

    def watch():
        clock.advance(30.0)
        if next(steps) == germinate_after:
            log.send(signed(seed_command("run", SEED_OPERATION_GERMINATE, "s1", "BP009", clock=clock.clock)))
        return False

    outside = Outside(log, clock.clock, objects, CommandVerifier(KEYS), should_stop=watch)
    train(RunConfig(task="tiny", policy=policy, decision_timeout_s=None), task, LiveWorld(outside), run_id="run")
    return log.events


@pytest.mark.requirement("R-NIS-5", "R-OPS-7")
def test_slow_hooks(tmp_path):
    assert watched(trained(tmp_path, [25, 25, 25, 10, 9])) == ["+training_latency_high", "-training_latency_high"]


@pytest.mark.requirement("R-NIS-5")
def test_quick_hooks_of_long_epochs_fire_nothing(tmp_path):
    assert watched(trained(tmp_path, [10, 17, 9, 12])) == []


@pytest.mark.requirement("R-NIS-6", "R-OPS-7")
def test_a_seed_that_leaks(tmp_path, monkeypatch):
    """Every measurement of a leak finds one, so that Kasmina culls the seed after the third."""
    monkeypatch.setattr(Isolation, "leaks", lambda _self, _output, _own: 1.0)

    told = watched(trained(tmp_path, [1] * 6, policy="none", germinate_after=2))

    assert told == ["+kasmina_isolation_violation", "-kasmina_isolation_violation"]


@pytest.mark.requirement("R-NIS-7", "R-NIS-8", "R-OPS-7")
@pytest.mark.parametrize(
    ("process", "metric", "labels", "bad", "alert"),
    [
        ("trainer-run", "esper_oona_queue_depth", {"writer": "trainer"}, 5_000, "oona_queue_depth"),
        ("forge", "esper_tezzeret_mode_conservative", {}, 1, "tezzeret_conservative_mode"),
    ],
)
def test_what_a_process_says_when_it_is_asked(tmp_path, process, metric, labels, bad, alert):
    """By the page that it really serves; of one that ended without a word, nothing is known."""
    metrics, watches, told = Metrics(), {}, []
    (tmp_path / "trainer-gone.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {}}]')
    (tmp_path / "forge-broken.json").write_text("{")
    with (
        HealthServer(process, metrics, checks={}) as health,
        scraped_by(tmp_path / f"{process}.json", "x", health.port),
    ):
        for minute in range(20):
            metrics.set(metric, bad if minute < 18 else 0, **labels)
            for sample in scraped(tmp_path):
                watches, said = evolve_alerts(watches, sample, 60.0 * minute)
                told += [said] if said is not None else []

    assert [(each.rule.name, each.active) for each in told] == [(alert, True), (alert, False)]
    assert {each.scope for each in told} == {process.removeprefix("trainer-")}
    assert list(scraped(tmp_path)) == []
    assert not (tmp_path / "trainer-gone.json").exists()


@pytest.fixture
def job():
    asked = events.requested(request("BP009", "vector", [8], {"depth": 1.0}), 1, producer="test")
    return evolve(None, asked, Place(0, 0, 0))


def attempts(job, *numbers):
    """What the forge publishes when it begins these attempts."""
    return [event for n in numbers for event in (events.started(job, n, "fast", n), events.retries(job, n, n))]


@pytest.mark.requirement("R-NIS-8", "R-OPS-7")
def test_a_kernel_that_needs_its_last_attempt(job):
    assert watched(attempts(job, 1, 2, 3, 1)) == ["+tezzeret_compile_retry_high", "-tezzeret_compile_retry_high"]


def test_a_kernel_that_is_asked_for_again_is_no_retry(job):
    for event in (
        *(events.started(job, 1, "fast", 1), events.failed(job, 1, "refused", 1, will_retry=False)),
        events.parked(job, 1, "refused", 1),
    ):
        job = evolve(job, event, Place(0, 0, 0))
    asked = events.requested(
        request("BP009", "vector", [8], {"depth": 1.0}), 2, producer="test", attempts_made=job.attempt
    )
    again = evolve(job, asked, Place(1, 0, 0))

    assert watched(attempts(again, 2, 3)) == []


def test_there_is_a_drill_for_every_alert():
    """Of running processes (`esper drill`), or here where what it takes is a quarter of an hour or a quiet machine."""
    here = {"training_latency_high", "tezzeret_conservative_mode"}

    assert {rule.name for rule in RULES} == here | {drill.alert for drill in DRILLS} - {""}


@pytest.mark.requirement("R-NIS-24")
def test_every_metric_that_the_runbook_names_can_be_asked_of_prometheus():
    text = (Path(__file__).parents[3] / RUNBOOK).read_text("utf-8")
    named = set(re.findall(r"esper_[a-z_]+[a-z]", text))

    assert named
    assert {name for name in named if name not in BY_NAME} == set()


@pytest.mark.requirement("R-OPS-10")
def test_the_runbook_has_a_section_for_every_alert_and_every_drill_one_to_point_at():
    text = (Path(__file__).parents[3] / RUNBOOK).read_text("utf-8")
    sections = set(re.findall(r"^## (\S+)$", text, re.MULTILINE))

    assert {rule.name for rule in RULES} | {drill.page.partition("#")[2] for drill in DRILLS} == sections
    assert {drill.name for drill in DRILLS} <= set(re.findall(r"`esper drill ([a-z-]+)`", text))
