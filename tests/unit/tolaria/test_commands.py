"""Commands: applied between steps where they may be, refused with a recorded reason where they may not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina.settings import SeedSettings
from esper.leyline.envelope import Event, body_name
from esper.leyline.signing import KeyRing, Signed
from esper.testing import command_event, seed_command, signed

BREAKERS = "tamiyo, learning_rate, growth, emergency, security, kernel_loading, memory_bounds, recompilation"
STRANGER = KeyRing((b"a key that this installation never saw",))


def script(steps: dict[int, Callable[[], None]]) -> Callable[[], bool]:
    """A `should_stop` that never stops and does something before the steps named, counted from 0."""
    calls = iter(range(10**6))

    def watch() -> bool:
        steps.get(next(calls), lambda: None)()
        return False

    return watch


def germination(bench, run_id: str = "run", blueprint: str = "BP009") -> Event:
    return seed_command(
        run_id,
        leyline.SEED_OPERATION_GERMINATE,
        "s1",
        blueprint,
        clock=bench.clock.clock,
    )


def rejections(bench) -> list[str]:
    return [body.reason for body in bench.log.bodies("command_rejected")]


def test_a_persons_command_is_applied_before_the_next_step(bench) -> None:
    event: list[Event] = []

    def send() -> None:
        event.append(germination(bench))
        bench.log.send(signed(event[0]))

    bench.run(should_stop=script({5: send}))
    applied = next(each for each in bench.log.events if body_name(each) == "command_applied")
    assert (applied.global_step, applied.epoch) == (5, 1)
    assert applied.causation_id == event[0].event_id == applied.command_applied.command_id
    assert applied.command_applied.origin == "a person"
    assert applied.command_applied.decision_id == b""
    moves = [each for each in bench.log.events if body_name(each) == "seed_transitioned"]
    assert (moves[0].global_step, moves[0].causation_id) == (5, applied.event_id)


def test_a_state_change_is_acknowledged_before_the_next_step(bench) -> None:
    """Ruling 1: between a transition and the optimiser step after it lies a flush."""
    order: list[str] = []
    publish, flush = bench.log.publish, bench.log.flush

    def watched_publish(event: Event) -> None:
        order.append(body_name(event))
        publish(event)

    def watched_flush(timeout_s: float = 30.0) -> None:
        order.append("flush")
        flush(timeout_s)

    bench.log.publish, bench.log.flush = watched_publish, watched_flush
    bench.run(should_stop=script({5: lambda: bench.log.send(signed(germination(bench)))}), telemetry_every_steps=1)
    for index, name in enumerate(order):
        if name == "seed_transitioned":
            rest = order[index:]
            assert rest.index("flush") < rest.index("step_sampled")


def unsigned(event: Event) -> Signed:
    return Signed(event.SerializeToString())


@pytest.mark.requirement("R-KAS-29", "R-SEC-9")
def test_commands_that_cannot_be_believed_change_nothing(bench, second_bench, tiny_task) -> None:
    def old(event: Event) -> Signed:
        event.adaptation_command.issued_at.FromNanoseconds(bench.clock.wall_ns - 61 * 10**9)
        return signed(event)

    def send_all() -> None:
        bench.log.send(unsigned(germination(bench)))
        bench.log.send(signed(germination(bench), STRANGER))
        bench.log.send(old(germination(bench)))
        bench.log.send(Signed(b"no event at all"))

    bench.run(tiny_task(), script({2: send_all}))
    second_bench.run(tiny_task())
    assert rejections(bench) == ["missing_signature", "invalid_signature", "stale_command", "missing_signature"]
    assert all(body.critical for body in bench.log.bodies("command_rejected"))
    assert [body.reason for body in bench.log.bodies("security_violation")] == rejections(bench)
    assert bench.digests() == second_bench.digests()


def test_a_redelivery_is_dropped_and_a_reused_id_is_a_security_event(bench) -> None:
    def send() -> None:
        event = germination(bench)
        other = germination(bench, blueprint="BP999")
        other.adaptation_command.command_id = event.adaptation_command.command_id
        for signed_event in (signed(event), signed(event), signed(other)):
            bench.log.send(signed_event)

    bench.run(should_stop=script({2: send}))
    assert len(bench.log.bodies("command_applied")) == 1
    assert rejections(bench) == ["nonce_replayed"]


def test_a_command_for_another_run_is_refused(bench) -> None:
    bench.run(should_stop=script({2: lambda: bench.log.send(signed(germination(bench, run_id="another")))}))
    assert rejections(bench) == ["wrong_run"]
    assert bench.log.bodies("seed_transitioned") == []


def test_what_kasmina_refuses_is_recorded_with_its_reason(bench) -> None:
    cull = seed_command("run", leyline.SEED_OPERATION_CULL, "s1", clock=bench.clock.clock)
    bench.run(should_stop=script({2: lambda: bench.log.send(signed(cull))}))
    (body,) = bench.log.bodies("command_rejected")
    assert (body.reason, body.critical, body.seed_id) == ("illegal_transition", False, "s1")


@pytest.mark.requirement("R-TOL-41")
@pytest.mark.parametrize(
    "kind",
    [leyline.COMMAND_TYPE_EMERGENCY, leyline.COMMAND_TYPE_STRUCTURAL_PRUNING],
)
def test_an_unsupported_command_is_recorded_and_changes_nothing(bench, kind: leyline.CommandType) -> None:
    event = command_event("run", leyline.AdaptationCommand(command_type=kind), clock=bench.clock.clock)
    bench.run(should_stop=script({2: lambda: bench.log.send(signed(event))}))
    assert rejections(bench) == ["unsupported_command"]


def adjustment(bench, group: str, **values: float) -> Signed:
    payload = leyline.CommandOptimizerAdjustment(optimizer_id=group, hyperparameters=values)
    command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_OPTIMIZER, optimizer_adjustment=payload)
    return signed(command_event("run", command, clock=bench.clock.clock))


def test_the_optimiser_is_adjusted_by_command_through_the_one_writer(bench) -> None:
    bench.run(should_stop=script({4: lambda: bench.log.send(adjustment(bench, "host", lr=0.03, weight_decay=0.25))}))
    (rate,) = bench.log.bodies("learning_rate_changed")
    assert (rate.group, rate.old_lr, rate.new_lr) == ("host", pytest.approx(0.01), pytest.approx(0.03))
    (changed,) = bench.log.bodies("optimizer_changed")
    assert dict(changed.hyperparameters) == {"weight_decay": 0.25}
    points = [point for body in bench.log.bodies("telemetry_packet") for point in body.metrics]
    assert [point.value for point in points if point.name == "tolaria.lr_controller.current_lr"] == pytest.approx(
        [0.01, 0.03, 0.03, 0.03]
    )


@pytest.mark.parametrize(
    ("group", "values", "reason"),
    [
        ("s9", {"lr": 0.1}, "unknown_group"),
        ("host", {"lr": -0.1}, "bad_hyperparameter"),
        ("host", {"lr": float("nan")}, "bad_hyperparameter"),
        ("host", {"betas": 0.1}, "bad_hyperparameter"),
    ],
)
def test_an_adjustment_that_does_not_fit_changes_nothing(
    bench, group: str, values: dict[str, float], reason: str
) -> None:
    bench.run(should_stop=script({2: lambda: bench.log.send(adjustment(bench, group, **values))}))
    assert rejections(bench) == [reason]
    assert bench.log.bodies("learning_rate_changed") == []


def breaker_command(bench, name: str, state: leyline.CircuitBreakerState) -> Signed:
    payload = leyline.CommandCircuitBreaker(desired_state=state, rationale="a test")
    command = leyline.AdaptationCommand(
        command_type=leyline.COMMAND_TYPE_CIRCUIT_BREAKER, circuit_breaker=payload, annotations={"breaker": name}
    )
    return signed(command_event("run", command, clock=bench.clock.clock))


@pytest.mark.requirement("R-TOL-33")
def test_in_conservative_mode_nothing_grows_and_culling_is_allowed(bench) -> None:
    """R-TOL-33; a person opens the breaker, which is what enters the mode, and closes it again."""

    def cull() -> None:
        event = seed_command("run", leyline.SEED_OPERATION_CULL, "s1", clock=bench.clock.clock)
        bench.log.send(signed(event))

    def grow_elsewhere() -> None:
        event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, "s2", "BP009", clock=bench.clock.clock)
        bench.log.send(signed(event))

    opened, closed = leyline.CIRCUIT_BREAKER_STATE_OPEN, leyline.CIRCUIT_BREAKER_STATE_CLOSED
    bench.run(
        should_stop=script(
            {
                1: lambda: bench.log.send(signed(germination(bench))),
                5: lambda: bench.log.send(breaker_command(bench, "tamiyo", opened)),
                6: grow_elsewhere,
                7: cull,
                9: lambda: bench.log.send(breaker_command(bench, "tamiyo", closed)),
                10: grow_elsewhere,
            }
        )
    )
    assert rejections(bench) == ["conservative_mode"]
    modes = [(body.entered, body.reason) for body in bench.log.bodies("conservative_mode_changed")]
    assert modes == [(True, "tamiyo"), (False, "tamiyo")]
    operations = [body.operation for body in bench.log.bodies("command_applied")]
    assert leyline.SEED_OPERATION_CULL in operations
    assert operations.count(leyline.SEED_OPERATION_GERMINATE) == 2


def test_a_breaker_that_does_not_exist_is_named(bench) -> None:
    opened = leyline.CIRCUIT_BREAKER_STATE_OPEN
    bench.run(should_stop=script({2: lambda: bench.log.send(breaker_command(bench, "fuse", opened))}))
    (body,) = bench.log.bodies("command_rejected")
    assert (body.reason, body.detail) == (
        "unknown_breaker",
        f"annotation breaker='fuse' names none of {BREAKERS}",
    )


def test_a_command_that_names_no_blueprint_is_watched_under_the_one_that_grew(bench) -> None:
    def cull() -> None:
        event = seed_command("run", leyline.SEED_OPERATION_CULL, "s1", clock=bench.clock.clock)
        bench.log.send(signed(event))

    bench.run(should_stop=script({2: lambda: bench.log.send(signed(germination(bench))), 6: cull}))
    windows = [window for body in bench.log.bodies("epoch_completed") for window in body.windows if window.closed]

    assert [(window.blueprint_id, window.ended_as) for window in windows] == [("BP009", "culled")] * 2
    assert windows[0].parameters_added > 0
    assert windows[1].parameters_added == -windows[0].parameters_added


def test_a_fossilized_seed_ends_the_window_over_it(bench) -> None:
    seeds = SeedSettings(lifecycle="direct")
    bench.run(should_stop=script({2: lambda: bench.log.send(signed(germination(bench)))}), seeds=seeds)
    closed = [window for body in bench.log.bodies("epoch_completed") for window in body.windows if window.closed]

    assert [(window.blueprint_id, window.ended_as) for window in closed] == [("BP009", "fossilized")]


def test_nonces_are_forgotten_at_an_epochs_end_without_any_traffic(bench) -> None:
    """R-SEC-8; what is remembered, and what had to make room, is in the epoch's telemetry."""
    wait = {2: lambda: bench.log.send(signed(germination(bench))), 9: lambda: bench.clock.advance(301.0)}
    bench.run(should_stop=script(wait))
    points = [point for body in bench.log.bodies("telemetry_packet") for point in body.metrics]
    sizes = [point.value for point in points if point.name == "kasmina.nonce_ledger.size"]

    assert sizes == [1, 1, 0, 0]
    assert {point.value for point in points if point.name == "kasmina.nonce_ledger.evictions"} == {0}
