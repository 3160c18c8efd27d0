"""One writer of learning rates: schedules, warm-up of new parameters, and what happens to another writer."""

from __future__ import annotations

import math

import pytest

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.record.fold import NEW_PARAMETERS
from esper.tolaria.learning_rate import HISTORY, MIN_RATE, LearningRates, decay_from_epoch, schedule


def make_rates(policy: str = "constant", *, total: int = 100, new_steps: int = 10) -> LearningRates:
    return LearningRates(
        policy,
        base_rate=0.1,
        total_steps=total,
        warmup_steps=10,
        decay_share=0.8,
        new_parameter_rate=0.1,
        new_parameter_warmup_steps=new_steps,
    )


def groups(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "lr": 5.0} for name in names]


@pytest.mark.requirement("R-TOL-15")
def test_cosine_is_defined_after_its_end() -> None:
    factor = schedule("cosine", total_steps=100, warmup_steps=0, decay_share=0.8)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.5)
    assert factor(100) == factor(101) == factor(10_000) == pytest.approx(0.0)
    rates = make_rates("cosine")
    assert rates.rate("host", 500) == MIN_RATE


def test_warmup_rises_linearly_from_a_tenth() -> None:
    factor = schedule("warmup", total_steps=100, warmup_steps=10, decay_share=0.8)
    assert [factor(step) for step in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1.0, 1.0])


def test_wsd_rises_stays_and_falls_in_a_line() -> None:
    factor = schedule("wsd", total_steps=100, warmup_steps=10, decay_share=0.8)

    assert [factor(step) for step in (0, 5, 10, 80, 90, 99)] == pytest.approx([0.1, 0.55, 1.0, 1.0, 0.5, 0.05])
    assert factor(100) == factor(10_000) == 0.0
    assert make_rates("wsd").rate("host", 500) == MIN_RATE


@pytest.mark.parametrize(
    ("policy", "share", "expected"),
    [("wsd", 0.8, 9), ("wsd", 0.75, 8), ("wsd", 1.0, 0), ("wsd", 0.0, 0), ("cosine", 0.8, 0), ("constant", 0.8, 0)],
)
def test_the_packet_says_in_which_epoch_the_decay_begins(policy: str, share: float, expected: int) -> None:
    found = decay_from_epoch(policy, epochs=10, steps_per_epoch=7, decay_share=share)
    factor = schedule(policy, total_steps=70, warmup_steps=7, decay_share=share)

    assert found == expected
    if found:
        rates = [[factor(step) for step in range(7 * epoch, 7 * epoch + 7)] for epoch in range(1, 10)]
        assert min(rates[found - 3]) == 1.0  # the last epoch of the constant phase; the first is of the warm-up
        assert min(rates[found - 2]) < 1.0


@pytest.mark.parametrize(
    ("lifecycle", "asked", "end"),
    [("careful", 0.0, ""), ("direct", 0.0, "fossilized"), ("swift", 0.0, ""), ("swift", 1e6, "rewound")],
)
@pytest.mark.parametrize("policy", ["wsd", "cosine"])
def test_what_grows_warms_up_and_the_host_goes_on_at_its_own_rate(
    bench, second_bench, tiny_task, policy, lifecycle, asked, end
):
    """A seed germinates, is absorbed, culled or rewound: after every epoch the host's rate is its control run's."""
    seeds = SeedSettings(lifecycle=lifecycle, benefit_z=asked)
    settings = {"rate_policy": policy, "new_parameter_warmup_epochs": 2.0, "seeds": seeds}
    bench.run(tiny_task(epochs=10), **settings)
    grown = second_bench.run(
        tiny_task(epochs=10), second_bench.growing(after=9, blueprint_id="BP062"), policy="heuristic", **settings
    )
    changed = second_bench.log.bodies("learning_rate_changed")
    fresh = [each.new_lr for each in changed if each.reason == NEW_PARAMETERS]

    assert not end or (grown.seeds | {"rewound": len(second_bench.log.bodies("rolled_back"))})[end] > 0
    assert len(host_rates(bench)) == 10
    assert host_rates(second_bench) == host_rates(bench)
    assert {each.group for each in changed} <= {"s1", "s2"}
    assert fresh
    assert max(fresh) < 0.11 * 1e-2  # a tenth of the base rate, at the most


def host_rates(bench) -> set[tuple[float, float]]:
    """Every epoch with what the host's group of the optimiser held at its end, however often it was trained."""
    packets = [packet for packet in bench.log.bodies("telemetry_packet") if packet.source_subsystem == "tolaria"]
    values = [{point.name: point.value for point in packet.metrics} for packet in packets]
    rates = [each for each in values if "tolaria.lr_controller.current_lr" in each]
    return {(each["tolaria.epochs.total"], each["tolaria.lr_controller.current_lr"]) for each in rates}


@pytest.mark.requirement("R-TOL-15")
def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="'exotic' is unknown; choose constant, cosine, warmup or wsd"):
        make_rates("exotic")


@pytest.mark.requirement("R-TOL-16")
def test_new_parameters_start_at_a_tenth_and_warm_up() -> None:
    rates = make_rates()
    fact = rates.add("s1", 2.0, step=40)[0]
    assert (fact.group, fact.old_lr, fact.new_lr) == ("s1", 0.0, pytest.approx(0.02))
    assert rates.rate("s1", 40) == pytest.approx(0.02)
    assert rates.rate("s1", 45) == pytest.approx(0.11)
    assert rates.rate("s1", 50) == pytest.approx(0.2)
    assert rates.rate("host", 40) == pytest.approx(0.1)


def test_the_rates_are_written_into_the_optimiser() -> None:
    rates, held = make_rates(), groups("host")
    assert rates.begin_step(held, 0) == []
    assert held[0]["lr"] == pytest.approx(0.1)


@pytest.mark.requirement("R-TOL-13")
def test_an_outside_write_is_found_at_the_next_step_and_undone() -> None:
    rates, held = make_rates(), groups("host")
    rates.begin_step(held, 0)
    held[0]["lr"] = 0.1 * (1 + 2e-6)
    undone = rates.begin_step(held, 1)
    assert [(fact.reason, fact.old_lr) for fact in undone] == [("outside write undone", pytest.approx(0.1, rel=1e-5))]
    assert held[0]["lr"] == 0.1
    held[0]["lr"] = 0.1 * (1 + 1e-8)
    assert rates.begin_step(held, 2) == []


@pytest.mark.requirement("R-TOL-14")
def test_history_keeps_the_newest_thousand_writes() -> None:
    rates, held = make_rates("cosine", total=5_000), groups("host")
    for step in range(1_500):
        rates.begin_step(held, step)
    assert len(rates.history) == HISTORY
    assert rates.history[-1] == (1_499, "host", rates.rate("host", 1_499))


def test_scaling_holds_for_groups_that_come_later() -> None:
    rates = make_rates()
    facts = rates.scale(0.5, "rollback", 0)
    assert [(fact.old_lr, fact.new_lr) for fact in facts] == [(pytest.approx(0.1), pytest.approx(0.05))]
    rates.add("s1", 1.0, step=0)
    assert rates.rate("s1", 50) == pytest.approx(0.05)


@pytest.mark.parametrize(("group", "base"), [("s9", 0.1), ("host", -0.1), ("host", math.nan), ("host", math.inf)])
def test_a_rate_that_cannot_be_set_is_refused(group: str, base: float) -> None:
    with pytest.raises(InvalidInput, match="no learning rate"):
        make_rates().set_base(group, base, "test", 0)


def test_restored_state_goes_on_the_same_way() -> None:
    rates = make_rates("cosine")
    rates.add("s1", 2.0, step=3)
    rates.begin_step(groups("host", "s1"), 4)
    other = make_rates("cosine")
    other.load_state(rates.state())
    assert all(other.rate(name, step) == rates.rate(name, step) for name in ("host", "s1") for step in (4, 9, 60))
    rates.remove("s1")
    assert "s1" in other.state()["base"]
    assert "s1" not in rates.state()["base"]
