"""What the archive knows about blueprints: approvals, newest sheets, and outcomes without what says nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.topics import BY_BODY
from esper.karn.approval import Approval
from esper.karn.dossier import Dossier, Outcomes, Sheet
from esper.kasmina.lifecycle import CULLED, DORMANT, FOSSILIZED, GERMINATED, Stage
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.weatherlight.beginning import dossier_of
from projections.archive_writer import Archive
from projections.records import StoredRecord
from projections.testing import lawful_way

SITES = [
    pb.SiteDescription(seed_id=seed_id, shape_kind=kind)
    for seed_id, kind in (("s1", "image"), ("s2", "vector"), ("s3", "image"))
]


class Past:
    """Writes whole runs and other events into an archive, as a log would hold them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.events = list[pb.Event]()
        self.sequence = 0

    def add(self, body, run_id="", **fields):
        self.events.append(
            new_event(
                body,
                event_id=ids.derived_id(b"past", "past", len(self.events)),
                run_id=run_id,
                producer="test",
                recorded_at_ns=1_700_000_000_000_000_000 + len(self.events),
                **fields,
            )
        )

    def fact(self, run_id, body):
        self.sequence += 1
        self.add(body, run_id, sequence=self.sequence, incarnation=1, timeline=1)

    def run(self, run_id, *lives, config="{}", weights=None, **started):
        """A run with lives such as ("s1", "BP009", FOSSILIZED, -0.5): how each ended and what its report says."""
        self.sequence = 0
        digest = (weights or run_id).encode()
        plain = {"task": "digits", "policy": "heuristic", "lifecycle": "full", "weights_digest": digest}
        stages: dict[str, Stage] = {}
        self.fact(run_id, pb.RunStarted(sites=SITES, config_json=config, **(plain | started)))
        for number, (seed_id, blueprint_id, end, delta) in enumerate(lives):
            command_id = ids.derived_id(run_id.encode(), "command", number)
            operation = leyline.CommandSeedOperation(
                operation=leyline.SEED_OPERATION_GERMINATE, blueprint_id=blueprint_id
            )
            self.add(
                leyline.AdaptationCommand(
                    command_id=ids.text(command_id),
                    command_type=leyline.COMMAND_TYPE_SEED,
                    target_seed_id=seed_id,
                    seed_operation=operation,
                ),
                run_id,
            )
            before = stages.get(seed_id, DORMANT)
            for stage in [*lawful_way(before, GERMINATED), *lawful_way(GERMINATED, end)]:
                move = pb.SeedTransitioned(seed_id=seed_id, to_stage=stage, blueprint_id=blueprint_id, life=number)
                move.from_stage = before
                self.fact(run_id, move)
                before = stages[seed_id] = stage
            for metric, about in ((delta, command_id), (99.0, bytes(16))):  # the second is not on a germination
                self.add(
                    leyline.FieldReport(
                        version=1,
                        command_id=ids.text(about),
                        seed_id=seed_id,
                        blueprint_id=blueprint_id,
                        metrics={"loss_delta_total": metric},
                    ),
                    run_id,
                )

    def dossier(self, **wanted) -> Dossier:
        ends = dict[str, int]()
        records = []
        for event in self.events:
            topic = BY_BODY[event.WhichOneof("body")].name
            offset = ends.get(topic, 0)
            ends[topic] = offset + 1
            records.append(StoredRecord(topic, 0, offset, 1_000, b"k", event.SerializeToString(), ()))
        with Archive(self.data_dir / "archive") as archive:
            archive.append(records)
        return dossier_of(self.data_dir, **wanted)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_a_folder_without_a_history_knows_nothing(tmp_path: Path, past):
    assert dossier_of(tmp_path) == Dossier()
    assert past.dossier() == Dossier()


def test_outcomes_count_lives_by_blueprint_and_shape_and_average_the_reports_on_germinations(past):
    past.run("a", ("s1", "BP009", FOSSILIZED, -0.4), ("s2", "BP009", CULLED, 0.2))
    past.run("b", ("s1", "BP009", FOSSILIZED, -0.2), ("s3", "BP013", CULLED, float("nan")))
    image, vector, grouped = past.dossier().outcomes

    assert (image.blueprint_id, image.shape_kind) == ("BP009", "image")
    assert (image.germinated, image.fossilized, image.culled, image.reports) == (2, 2, 0, 2)
    assert image.loss_delta_mean == pytest.approx(-0.3)
    assert image.loss_delta_stderr == pytest.approx(0.1)
    assert (vector.shape_kind, vector.culled, vector.loss_delta_stderr) == ("vector", 1, 0.0)
    assert grouped == Outcomes("BP013", "image", 1, 0, 1)


def test_what_says_nothing_about_a_blueprint_is_left_out(past):
    life = ("s1", "BP009", FOSSILIZED, -0.4)
    past.run("drill", life, config='{"drill": true, "seed": 1}')
    past.run("random", life, policy="random")
    past.run("direct", life, lifecycle="direct")
    assert past.dossier().outcomes == ()


def test_a_run_that_repeats_another_is_no_second_witness(past):
    past.run("first", ("s1", "BP009", FOSSILIZED, -0.4), weights="same")
    past.run("again", ("s1", "BP009", CULLED, 0.4), weights="same")
    past.run("other", ("s1", "BP009", FOSSILIZED, -0.4), weights="its own")
    (found,) = past.dossier().outcomes

    assert (found.germinated, found.fossilized, found.culled) == (2, 1, 1)


def test_what_a_rollback_undid_did_not_happen(past):
    past.run("a", ("s1", "BP009", CULLED, 0.4))
    past.sequence += 1
    past.add(pb.RolledBack(level="fast", to_sequence=1, new_timeline=2), "a", sequence=4, incarnation=1, timeline=2)
    assert past.dossier().outcomes == ()


def test_history_can_be_ignored_but_neither_approvals_nor_sheets(past):
    past.run("a", ("s1", "BP009", FOSSILIZED, -0.4))
    past.add(pb.BlueprintApproved(blueprint_id="BP039", approved=True, by="ada", why="ODEs on spirals"))
    past.add(pb.BlueprintApproved(blueprint_id="BP036", approved=True, by="ada", why="a try"))
    past.add(pb.BlueprintApproved(blueprint_id="BP036", approved=False, by="bob", why="too slow"))
    past.add(pb.BlueprintApproved(blueprint_id="BP040", approved=True, by="", why=""))
    for band in (leyline.HAZARD_BAND_LOW, leyline.HAZARD_BAND_CRITICAL):
        sheet = leyline.BSDS(version=1, blueprint_id="BP009", risk_score=0.5, hazard_band=band, handling_class=1)
        past.add(leyline.BSDSIssued(bsds=sheet))
    dossier = past.dossier(outcomes=False)

    assert dossier.outcomes == ()
    assert dossier.approvals == {"BP039": Approval("ada", "ODEs on spirals")}
    assert dossier.sheets == (Sheet("BP009", 0.5, "CRITICAL", "STANDARD"),)
