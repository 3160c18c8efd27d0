"""What may grow in a run: its pool and clearance, recorded in its first event, and pauses that a command asks for."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import InvalidInput
from esper.karn.approval import Approval
from esper.karn.catalogue import DEFAULT_POOL, SAFE_POOL
from esper.karn.dossier import Dossier, Outcomes
from esper.karn.table import CATALOGUE
from esper.leyline.envelope import body_name
from esper.testing import command_event, seed_command, signed
from esper.tolaria.config import RunConfig

APPROVED = Dossier({name: Approval("a tester", "tests") for name in ("BP039", "BP043")})
BEYOND = [name for name, blueprint in CATALOGUE.items() if blueprint.tier != "safe"]
STRESSORS = [name for name, blueprint in CATALOGUE.items() if blueprint.quarantine_only]


def germinate(bench, blueprint_id, *, at=5):
    """A `should_stop` that sends a person's germinate command before that step."""
    steps = iter(range(10**6))

    def watch() -> bool:
        if next(steps) == at:
            event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, "s1", blueprint_id, clock=bench.clock.clock)
            bench.log.send(signed(event))
        return False

    return watch


def offered(bench):
    (started,) = bench.log.bodies("run_started")
    return [{option.blueprint_id for option in site.options} for site in started.sites]


def recorded(bench):
    return RunConfig.from_json(bench.log.bodies("run_started")[0].config_json)


def test_by_default_a_run_offers_the_default_pool_and_records_its_ids(bench) -> None:
    bench.run(epochs=1)

    assert recorded(bench).pool == tuple(sorted(DEFAULT_POOL))
    assert offered(bench) == [{name for name in DEFAULT_POOL if "vector" in CATALOGUE[name].kinds}] * 2
    assert (recorded(bench).drill, recorded(bench).dossier) == (False, Dossier())


def test_a_pool_of_ones_own_is_what_sites_offer_and_what_commands_may_name(bench) -> None:
    bench.run(pool=("BP009", "BP013", "BP033"), epochs=2, should_stop=germinate(bench, "BP021"))

    assert offered(bench) == [{"BP009", "BP013"}] * 2  # BP033 serves images alone
    assert [body.reason for body in bench.log.bodies("command_rejected")] == ["unknown_blueprint"]


@pytest.mark.requirement("R-KARN-9")
def test_an_approved_experimental_blueprint_grows_and_the_first_event_says_who_approved_it(bench) -> None:
    bench.run(pool=("safe", "BP039"), dossier=APPROVED, epochs=2, should_stop=germinate(bench, "BP039"))

    assert recorded(bench).pool == tuple(sorted([*SAFE_POOL, "BP039"]))
    assert recorded(bench).dossier.approvals == {"BP039": Approval("a tester", "tests")}
    assert (
        json.loads(bench.log.bodies("run_started")[0].config_json)["dossier"]["approvals"]["BP039"]["by"] == "a tester"
    )
    assert [body.blueprint_id for body in bench.log.bodies("kernel_attached")] == ["BP039"]


@pytest.mark.requirement("R-KARN-7")
@pytest.mark.parametrize("blueprint_id", BEYOND)
def test_beyond_the_safe_tier_nothing_is_offered_without_an_approval(bench, blueprint_id) -> None:
    with pytest.raises(InvalidInput, match=f"{blueprint_id} .*(not approved|quarantine drill only)"):
        bench.run(pool=("safe", blueprint_id), drill=False)
    assert bench.log.events == []


@pytest.mark.parametrize("blueprint_id", STRESSORS)
def test_a_drill_lets_in_approved_stressors_alone(bench, blueprint_id) -> None:
    with pytest.raises(InvalidInput, match="not approved"):
        bench.run(pool=("default", blueprint_id), drill=True)
    bench.run(pool=(blueprint_id,), drill=True, dossier=Dossier({blueprint_id: Approval("a", "b")}), epochs=1)
    assert offered(bench) == [{blueprint_id}] * 2
    assert recorded(bench).drill


def test_a_pool_that_serves_no_site_is_refused(bench) -> None:
    with pytest.raises(InvalidInput, match="nothing of pool BP023 serves a site of task tiny"):
        bench.run(pool=("BP023",))


def test_outcomes_travel_in_the_sites_and_in_the_first_event(bench) -> None:
    past = (Outcomes("BP009", "vector", 4, 3, 1, 4, -0.5, 0.25), Outcomes("BP009", "image", 9, 9, 0))
    bench.run(policy="heuristic", dossier=Dossier(outcomes=past), epochs=1)
    (packet,) = bench.log.bodies("epoch_completed")
    (option,) = [each for each in packet.sites[0].options if each.blueprint_id == "BP009"]

    assert recorded(bench).dossier.outcomes == past[:1]
    assert (option.outcomes.germinated, option.outcomes.fossilized) == (4, 3)


@pytest.mark.requirement("R-TAM-36")
def test_a_pause_holds_until_the_next_decision_is_made(bench) -> None:
    steps = iter(range(10**6))

    def watch() -> bool:
        if next(steps) == 5:
            command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_PAUSE)
            bench.log.send(signed(command_event("run", command, clock=bench.clock.clock)))
        return False

    bench.run(should_stop=watch)
    told = [event for event in bench.log.events if body_name(event) == "conservative_mode_changed"]

    assert [(event.conservative_mode_changed.entered, event.epoch) for event in told] == [(True, 1), (False, 2)]
    assert [body.conservative for body in bench.log.bodies("epoch_completed")] == [False, True, False, False]


def test_a_pause_of_tamiyos_holds_over_the_next_epoch(bench) -> None:
    """Ordered at the end of an epoch, so the decision that it must still hold for is that of the epoch after."""
    from esper.karn.dossier import Sheet

    sheet = Sheet("BP009", 0.9, "CRITICAL", "QUARANTINE")
    bench.run(policy="heuristic", pool=("BP009",), dossier=Dossier(sheets=(sheet,)), epochs=12)
    decisions = [body.actions[body.action] for body in bench.log.bodies("decision_made")]
    conservative = [body.conservative for body in bench.log.bodies("epoch_completed")]

    paused = [number for number, chosen in enumerate(decisions) if chosen.startswith("pause")]
    assert paused
    assert all(conservative[number + 1] and decisions[number + 1] == "nothing" for number in paused)
    assert not bench.log.bodies("kernel_attached")
    assert not bench.log.bodies("command_rejected")
    assert len(bench.log.bodies("emergency_signal")) == len(paused)


@pytest.mark.requirement("R-TAM-19")
def test_a_high_hazard_turns_growth_into_one_lower_learning_rate(bench) -> None:
    from esper.karn.dossier import Sheet

    sheet = Sheet("BP009", 0.7, "HIGH", "RESTRICTED")
    bench.run(policy="heuristic", pool=("BP009",), dossier=Dossier(sheets=(sheet,)), epochs=12)
    decisions = [body.actions[body.action] for body in bench.log.bodies("decision_made")]
    changes = bench.log.bodies("learning_rate_changed")

    assert sum(chosen.startswith("adjust") for chosen in decisions) > 1
    assert [change.new_lr / change.old_lr for change in changes] == [pytest.approx(0.5)]
    assert not bench.log.bodies("kernel_attached")
    assert not bench.log.bodies("command_rejected")
