"""Quarantine drills: each stressor grows in a real run, by a signed command, and the path that must stop it does.

The only tests in which BP043 to BP050 run in a training loop. What stops each is read off the run's own facts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import InvalidInput
from esper.karn.approval import Approval
from esper.karn.dossier import Dossier
from esper.karn.table import CATALOGUE
from esper.kasmina import lifecycle
from esper.kasmina.lifecycle import gate_name, name
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK, FakeClock, MemoryLog, command_event, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock, Outside
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import Samples, Task, load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

STRESSORS = [blueprint.blueprint_id for blueprint in CATALOGUE.values() if blueprint.quarantine_only]
APPROVED = {name: Approval("a tester", "a drill") for name in STRESSORS}
STEPS, BATCH, SAMPLES = 8, 20, 160
NAN_IN_BLENDING = 3
INDULGENT = {"harm_share": 100.0, "drift_z": 1e6}
"""So that no gate culls for harm what another path is to stop."""


@cache
def small(task_name: str) -> Task:
    """The task with its own host and a few of its own samples."""
    task = load_task(task_name)
    some = {}
    for part in ("train", "probe", "test"):
        samples = getattr(task, part)
        some[part] = Samples(samples.inputs[:SAMPLES], samples.targets[:SAMPLES])
    return replace(task, batch_size=BATCH, steps_per_epoch=STEPS, **some)


@dataclass(frozen=True)
class Drill:
    """A drill that was held: its result, and what the log has of it."""

    result: RunResult
    log: MemoryLog

    @property
    def failed_gates(self) -> list[tuple[str, str]]:
        """Which gates failed, and of which figure."""
        bodies = [body for body in self.log.bodies("gate_evaluated") if not body.passed]
        return [(gate_name(body.gate), body.reason.split(" is ")[0]) for body in bodies]

    @property
    def culls(self) -> list[str]:
        """Why seeds were culled."""
        return [b.reason for b in self.log.bodies("seed_transitioned") if b.to_stage == lifecycle.CULLED]

    @property
    def reached(self) -> set[str]:
        """Every stage that a seed came to."""
        return {name(body.to_stage) for body in self.log.bodies("seed_transitioned")}

    @property
    def rollbacks(self) -> list[tuple[str, str]]:
        """The level and reason of each."""
        return [(body.level, body.reason) for body in self.log.bodies("rolled_back")]

    def told(self, event_id: str) -> list[leyline.TelemetryEvent]:
        """Kasmina's telemetry events of that name."""
        packets = self.log.bodies("telemetry_packet")
        return [event for packet in packets for event in packet.events if event.event_id == event_id]


@pytest.fixture
def hold(tmp_path: Path) -> Callable[..., Drill]:
    """Hold a drill: germinate the stressor at the sites named after the first epoch, and train on."""

    def run(
        blueprint_id: str,
        *,
        sites: tuple[str, ...] = ("s1",),
        epochs: int = 8,
        clock: Clock | None = None,
        settings: dict[str, float] | None = None,
        seeds: SeedSettings | None = None,
        task: Task | None = None,
        **config: object,
    ) -> Drill:
        now = clock or FakeClock().clock
        log, objects, steps = MemoryLog(now, objects=ObjectStore(tmp_path)), ObjectStore(tmp_path), iter(range(10**6))
        task = task or small("spirals")

        def watch() -> bool:
            if next(steps) == task.steps(task.batch_size):
                for seed_id in sites:
                    operation = leyline.CommandSeedOperation(
                        operation=leyline.SEED_OPERATION_GERMINATE, blueprint_id=blueprint_id, parameters=settings
                    )
                    command = leyline.AdaptationCommand(
                        command_type=leyline.COMMAND_TYPE_SEED, target_seed_id=seed_id, seed_operation=operation
                    )
                    log.send(signed(command_event("run", command, clock=now, by="a drill")))
            return False

        given = {"pool": (blueprint_id,), "drill": True, "dossier": Dossier(APPROVED), "policy": "none"}
        result = train(
            RunConfig(task="spirals", epochs=epochs, seeds=seeds or SeedSettings(), **(given | config)),  # type: ignore[arg-type]
            task,
            LiveWorld(Outside(log, now, objects, CommandVerifier(KEYS), None, watch)),
            run_id="run",
        )
        return Drill(result, log)

    return run


@pytest.mark.parametrize("scale", [5.0, 20.0])
def test_exploding_gradient_is_rolled_back_and_the_run_goes_on_without_it(hold, scale) -> None:
    drill = hold("BP043", settings={"scale": scale}, epochs=12, seeds=SeedSettings(**INDULGENT))

    levels = [level for level, _ in drill.rollbacks]
    signals = [body.level for body in drill.log.bodies("emergency_signal")]
    assert {reason for _, reason in drill.rollbacks} == {"exploding_gradient"}
    assert (levels[-2:], levels.count("full")) == (["fast", "full"], 1)  # a halved rate may help for an epoch
    assert drill.culls == ["rollback: exploding_gradient"]
    assert signals == [leyline.EMERGENCY_LEVEL_CONSERVATIVE] * len(levels)
    assert [body.entered for body in drill.log.bodies("conservative_mode_changed")][-2:] == [True, False]
    assert drill.told("seed_evicted")[0].attributes["seed_id"] == "s1"
    assert (drill.result.status, drill.result.epochs) == ("completed", 12)


def test_three_of_them_at_once_are_beyond_numbers_and_rolled_back_too(hold) -> None:
    sites = ("s1", "s2", "s3")
    drill = hold("BP043", settings={"scale": 20.0}, sites=sites, gradient_factor=1e38, seeds=SeedSettings(**INDULGENT))

    assert drill.rollbacks == [("fast", "non_finite_gradient"), ("full", "non_finite_gradient")]
    assert drill.culls == ["rollback: non_finite_gradient"] * 3
    assert drill.result.status == "completed"


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.1])
def test_vanishing_gradient_fails_the_gate_of_gradient_health(hold, decay) -> None:
    drill = hold("BP044", settings={"decay": decay})

    assert drill.failed_gates == [("G1_GRADIENT_HEALTH", "gradient_norm")]
    assert drill.culls[0].startswith("G1_GRADIENT_HEALTH failed: gradient_norm is ")
    assert "BLENDING" not in drill.reached
    assert drill.told("gate_failure")[0].level == leyline.TELEMETRY_LEVEL_CRITICAL


def test_a_nan_in_training_culls_the_seed_before_the_host_sees_one(hold) -> None:
    drill = hold("BP045", settings={"frequency": 0.1}, seeds=SeedSettings(training_epochs=4))

    assert drill.failed_gates == [("G1_GRADIENT_HEALTH", "nonfinite_losses")]
    assert len(drill.told("seed_loss_not_finite")) > 0
    assert "BLENDING" not in drill.reached
    assert not drill.rollbacks
    assert drill.result.status == "completed"


def test_a_nan_that_comes_only_once_the_seed_is_mixed_in_is_rolled_back_and_the_seed_evicted(hold) -> None:
    """With these random numbers the seed gets through its short training without one."""
    seeds = SeedSettings(**INDULGENT, training_epochs=1)
    drill = hold("BP045", settings={"frequency": 0.05}, seeds=seeds, seed=NAN_IN_BLENDING)

    assert drill.rollbacks == [("fast", "non_finite_loss"), ("full", "non_finite_loss")]
    assert drill.culls == ["rollback: non_finite_loss"]
    assert not drill.failed_gates
    assert drill.result.status == "completed"


def test_a_nan_in_the_epoch_of_its_germination_takes_the_germination_back(hold) -> None:
    """The direct lifecycle makes it host at once, ungated; the state to go back to is from before it."""
    drill = hold("BP045", settings={"frequency": 0.1}, seeds=SeedSettings(lifecycle="direct"))

    assert drill.rollbacks == [("fast", "non_finite_loss")]
    assert drill.culls == []
    assert drill.result.fates == {}
    assert drill.result.status == "completed"


SLOW = [("BP046", {"iterations": 10000.0}), ("BP048", {"threads": 4.0})]


@pytest.mark.parametrize(("blueprint_id", "settings"), SLOW)
def test_one_that_takes_for_ever_is_bounded_and_its_gate_tells_how_slow_it_is(hold, blueprint_id, settings) -> None:
    """A clock culls nothing (ruling 29); by the rules of before it did."""
    threads = threading.active_count()
    slow = replace(small("spirals"), steps_per_epoch=2)
    seeds = SeedSettings(**INDULGENT, blend_epochs=1)
    drill = hold(blueprint_id, settings=settings, clock=REAL_CLOCK, task=slow, seeds=seeds)
    gates = [each for body in drill.log.bodies("gate_evaluated") for each in body.measurements]
    latency = [each.value for each in gates if each.name == "kernel_latency_ms"]

    assert ("G2_STABILITY", "kernel_latency_ms") not in drill.failed_gates
    assert latency
    assert min(latency) > seeds.max_kernel_latency_ms
    assert drill.result.status == "completed"
    assert threading.active_count() == threads


@pytest.mark.requirement("R-KAS-41")
@pytest.mark.parametrize("growth_rate", [1.0, 5.0])
def test_a_memory_leak_is_refused_more_memory_within_a_few_steps(hold, growth_rate) -> None:
    drill = hold("BP047", settings={"growth_rate": growth_rate})
    (cull,) = [event for event in drill.log.events if event.seed_transitioned.to_stage == lifecycle.CULLED]

    assert drill.culls[0].startswith("memory limit: BP047 keeps ")
    assert cull.global_step <= STEPS + 6
    assert drill.told("memory_allocation_denied")[0].level == leyline.TELEMETRY_LEVEL_CRITICAL
    health = [packet.system_health for packet in drill.log.bodies("telemetry_packet")]
    assert leyline.HEALTH_STATUS_UNHEALTHY in {each.status for each in health}
    assert "BLENDING" not in drill.reached


def test_a_race_condition_gives_no_run_that_could_be_repeated_and_fails_its_gate(hold) -> None:
    """Two runs of a race may agree by accident, so three of them start, and each is asked twice, five times over."""
    drill = hold("BP049", sites=("s1", "s2", "s3"))

    assert {figure for _, figure in drill.failed_gates} & {"repeat_error"}
    assert {gate for gate, figure in drill.failed_gates if figure == "repeat_error"} <= {"G0_SANITY", "G3_INTERFACE"}
    assert drill.result.status == "completed"


@pytest.mark.parametrize("seed", [0, 1])
def test_adversarial_noise_is_culled_for_the_harm_it_does(hold, seed) -> None:
    drill = hold("BP050", settings={"epsilon": 1.0}, task=small("digits"), seed=seed)
    (failed,) = drill.failed_gates

    assert failed in {("G1_GRADIENT_HEALTH", "trial_contribution"), ("G3_INTERFACE", "contribution")}
    assert len(drill.culls) == 1
    assert "PROBATIONARY" not in drill.reached


@pytest.mark.requirement("R-KARN-8")
@pytest.mark.parametrize("blueprint_id", STRESSORS)
def test_without_a_drill_none_of_them_is_reachable_by_option_or_command(hold, blueprint_id) -> None:
    with pytest.raises(InvalidInput, match="quarantine drill only"):
        hold(blueprint_id, drill=False)
    refused = hold(blueprint_id, pool=("safe",), drill=False, epochs=2)
    assert [body.reason for body in refused.log.bodies("command_rejected")] == ["unknown_blueprint"]
    assert not refused.reached


def test_a_drill_in_which_no_seed_is_asked_for_is_a_run_like_any_other(hold) -> None:
    """The stressor is offered and nothing more: it does not come by itself, and Tamiyo never wants it."""
    drill = hold("BP043", sites=(), policy="heuristic", epochs=12, pool=("BP009", "BP043"), decision_timeout_s=None)

    assert {body.blueprint_id for body in drill.log.bodies("kernel_attached")} <= {"BP009"}
    assert drill.result.status == "completed"
