"""What a drill asks for, and what a run may name: commands for sites that offer the stressor, ids in any case."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.event_pb2 import BlueprintOption, EpochCompleted, RunStarted, SiteDescription
from contracts.leyline.v1.leyline_pb2 import COMMAND_TYPE_SEED, SEED_OPERATION_GERMINATE
from esper.cli.run import Instructor, check_pool, germinations, ids_of
from esper.errors import InvalidInput, LogUnavailable
from esper.karn.approval import Approval
from esper.karn.dossier import Dossier
from esper.leyline.envelope import new_event
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, signed
from esper.tolaria.config import RunConfig

NOW_NS = 1_800_000_000_000_000_000


def site(seed_id: str, *offered: str) -> SiteDescription:
    return SiteDescription(seed_id=seed_id, options=[BlueprintOption(blueprint_id=name) for name in offered])


def asked(*stressors: str, sites: list[SiteDescription]) -> list[tuple[str, str]]:
    commands = germinations("run", stressors, sites, NOW_NS)
    bodies = [event.adaptation_command for event in commands]
    assert all(body.command_type == COMMAND_TYPE_SEED for body in bodies)
    assert all(body.seed_operation.operation == SEED_OPERATION_GERMINATE for body in bodies)
    return [(body.target_seed_id, body.seed_operation.blueprint_id) for body in bodies]


def test_each_stressor_gets_a_site_of_its_own_that_offers_it() -> None:
    sites = [site("s1", "BP009"), site("s2", "BP043", "BP045"), site("s3", "BP045", "BP043")]

    assert asked("BP045", "BP043", sites=sites) == [("s2", "BP045"), ("s3", "BP043")]
    assert asked("BP045", "BP043", "BP047", sites=sites) == [("s2", "BP045"), ("s3", "BP043")]
    assert asked("BP047", sites=sites) == []


def test_a_trainer_believes_the_command_once() -> None:
    (event,) = germinations("run", ["BP043"], [site("s1", "BP043")], NOW_NS)
    verifier = CommandVerifier(KEYS)

    assert event.run_id == "run"
    assert not verifier.verify(signed(event), now_ns=NOW_NS).rejected
    assert verifier.verify(signed(event), now_ns=NOW_NS).outcome != "accepted"


def test_only_the_start_of_the_run_itself_sets_it_off() -> None:
    """Nothing listens at that address, so whatever it tries to send is noticed."""
    instructor = Instructor("run", ["BP043"], KEYS)
    start = RunStarted(sites=[site("s1", "BP043")])

    def event(run_id: str, body):
        return new_event(body, event_id=bytes(16), run_id=run_id, producer="trainer", recorded_at_ns=1)

    instructor.see(event("another", start), "127.0.0.1:1")
    instructor.see(event("run", EpochCompleted()), "127.0.0.1:1")
    with pytest.raises(LogUnavailable):
        instructor.see(event("run", start), "127.0.0.1:1")
    instructor.see(event("run", start), "127.0.0.1:1")


def test_names_become_ids_and_what_is_not_cleared_is_told_at_once() -> None:
    assert ids_of(["default", "bp009", "mixture_of_experts_4"]) == ("default", "BP009", "BP036")
    with pytest.raises(InvalidInput, match="no blueprint 'BP99'"):
        ids_of(["BP99"])
    approved = Dossier({name: Approval("ada", "a drill") for name in ("BP036", "BP043")})
    check_pool(RunConfig(pool=("safe", "BP036", "BP043"), drill=True, dossier=approved))
    for refused in (
        RunConfig(pool=("BP036",)),
        RunConfig(pool=("BP043",), dossier=approved),
        RunConfig(pool=("BP044",), drill=True, dossier=approved),
    ):
        with pytest.raises(InvalidInput, match=r"not approved|quarantine drill only"):
            check_pool(refused)
