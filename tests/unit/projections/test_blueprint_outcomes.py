"""Which blueprints earned their place: ends, deltas and gains of a history that is told by hand."""

from __future__ import annotations

import math
import statistics

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina.lifecycle import CULLED, DORMANT, FOSSILIZED, GERMINATED, PROBATIONARY, TRAINING
from esper.leyline import ids
from esper.leyline.envelope import new_event
from projections import open_history
from projections.archive_writer import Archive
from projections.testing import RECORDED_AT_NS, LogOfRecords, lawful_way

SITES = [
    pb.SiteDescription(site="stem", seed_id="s1", shape_kind="image", shape=[8, 4, 4]),
    pb.SiteDescription(site="head", seed_id="s2", shape_kind="vector", shape=[16]),
]
SHAPES = {"s1": ("image", [8, 4, 4]), "s2": ("vector", [16])}


class Teller:
    """Writes one run as its trainer states it."""

    def __init__(self, run_id, *, control_of="", weights=b""):
        self.run_id, self.events, self.sequence, self.epoch = run_id, [], 0, 0
        self.stages = dict.fromkeys(SHAPES, DORMANT)
        self.say(pb.RunStarted(task="digits", sites=SITES, control_of=control_of, weights_digest=weights))

    def say(self, body):
        self.sequence += 1
        self.events.append(
            new_event(
                body,
                event_id=ids.derived_id(self.run_id.encode(), "teller", len(self.events)),
                run_id=self.run_id,
                producer="trainer",
                recorded_at_ns=RECORDED_AT_NS + len(self.events),
                sequence=self.sequence,
                incarnation=1,
                timeline=1,
                epoch=self.epoch,
            )
        )

    def train(self, *losses):
        """One epoch a loss."""
        for loss in losses:
            self.epoch += 1
            state = leyline.SystemStatePacket(version=1, current_epoch=self.epoch, validation_loss=loss)
            self.say(pb.EpochCompleted(state=state))

    def germinate(self, seed_id, blueprint_id, *, parameters=100):
        self.move(seed_id, blueprint_id, DORMANT, GERMINATED)
        self.say(
            pb.KernelAttached(
                seed_id=seed_id,
                blueprint_id=blueprint_id,
                module_parameters=parameters,
                flops_per_sample=2 * parameters,
            )
        )

    def move(self, seed_id, blueprint_id, source, target):
        """A move, and before it those that bring the seed to its source."""
        for stage in [*lawful_way(self.stages[seed_id], source), target]:
            before, self.stages[seed_id] = self.stages[seed_id], stage
            self.say(pb.SeedTransitioned(seed_id=seed_id, blueprint_id=blueprint_id, from_stage=before, to_stage=stage))


@pytest.fixture
def outcomes(tmp_path):
    """The view over what the tellers told, a dict a row, by blueprint and kind of shape."""

    def ask(*tellers):
        with Archive(tmp_path) as archive:
            archive.append(LogOfRecords().place(event for teller in tellers for event in teller.events))
        with open_history(tmp_path) as history:
            answer = history.execute("FROM blueprint_outcomes")
            names = [column[0] for column in answer.description]
            rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        return {(row["blueprint_id"], row["shape_kind"]): row for row in rows}

    return ask


def test_ends_are_counted_by_blueprint_and_shape(outcomes):
    one, other = Teller("one"), Teller("other")
    for teller, end in ((one, FOSSILIZED), (other, CULLED)):
        teller.germinate("s1", "BP009", parameters=300)
        teller.move("s1", "BP009", PROBATIONARY, end)
        teller.germinate("s2", "BP009", parameters=50)
    other.germinate("s1", "BP016", parameters=10)

    found = outcomes(one, other)
    counts = {key: [row[name] for name in ("runs", "germinated", "fossilized", "culled")] for key, row in found.items()}
    assert counts == {
        ("BP009", "image"): [2, 2, 1, 1],
        ("BP009", "vector"): [2, 2, 0, 0],
        ("BP016", "image"): [1, 1, 0, 0],
    }
    assert [found["BP009", "vector"][name] for name in ("undecided", "parameters", "flops_per_sample")] == [2, 50, 100]
    assert found["BP009", "image"]["shape"] == [8, 4, 4]


def grown(run_id, before, after, *, weights=b""):
    """A run whose loss goes from `before`, where BP009 germinates, to `after`, where the run ends."""
    teller = Teller(run_id, weights=weights)
    teller.train(before)
    teller.germinate("s1", "BP009")
    teller.train(after)
    return teller


def test_the_mean_delta_has_the_interval_of_student(outcomes):
    deltas = [-0.4, -0.1, 0.2]
    row = outcomes(*(grown(f"run{number}", 1.0, 1.0 + delta) for number, delta in enumerate(deltas)))["BP009", "image"]

    half = 4.302653 * statistics.stdev(deltas) / math.sqrt(3)  # Student's t of two degrees of freedom at 97.5 %
    low, high = statistics.mean(deltas) - half, statistics.mean(deltas) + half
    assert [row["measured"], row["mean_delta"]] == [3, pytest.approx(statistics.mean(deltas))]
    assert [row["delta_low"], row["delta_high"]] == [pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3)]
    assert [row["compared"], row["mean_gain"], row["gain_low"]] == [0, None, None]


def test_a_single_run_and_one_whose_loss_is_no_number_have_no_interval(outcomes):
    row = outcomes(grown("one", 1.0, 0.5), grown("other", 1.0, math.nan))["BP009", "image"]

    assert [row[name] for name in ("germinated", "measured", "mean_delta", "delta_low")] == [2, 1, -0.5, None]


def test_a_run_that_repeats_another_is_counted_and_is_once_in_the_means(outcomes):
    """Their interval would say that a figure is certain because it was computed twice."""
    same, other = [grown(name, 1.0, 0.5, weights=b"w" * 32) for name in ("one", "again")], b"x" * 32
    row = outcomes(*same, grown("other", 1.0, 0.7, weights=other))["BP009", "image"]

    assert [row["germinated"], row["measured"], row["mean_delta"]] == [3, 2, pytest.approx(-0.4)]


def test_the_gain_is_what_the_control_did_not_win_by_itself(outcomes):
    """From the germination to the run's end the loss fell by 0.5, the control's between the same epochs by 0.2."""
    one, control = Teller("grown"), Teller("grown-control", control_of="grown")
    control.train(1.0, 0.9, 0.8, 0.1)
    one.train(1.0)
    one.germinate("s1", "BP009")
    one.move("s1", "BP009", PROBATIONARY, FOSSILIZED)
    one.train(0.7, 0.5)

    row = outcomes(one, control)["BP009", "image"]
    assert [row["compared"], row["mean_delta"]] == [1, pytest.approx(-0.5)]
    assert row["mean_gain"] == pytest.approx(0.3)


def test_what_was_culled_is_measured_up_to_its_cull(outcomes):
    """What another seed wins after it is not its merit."""
    one, control = Teller("grown"), Teller("grown-control", control_of="grown")
    control.train(1.0, 0.8, 0.8, 0.8)
    one.train(1.0)
    one.germinate("s1", "BP009")
    one.train(0.9)
    one.move("s1", "BP009", TRAINING, CULLED)
    one.germinate("s1", "BP016")
    one.move("s1", "BP016", PROBATIONARY, FOSSILIZED)
    one.train(0.4, 0.2)

    found = outcomes(one, control)
    assert [found["BP009", "image"][name] for name in ("fossilized", "culled")] == [0, 1]
    assert found["BP009", "image"]["mean_gain"] == pytest.approx(-0.1)
    assert [found["BP016", "image"][name] for name in ("fossilized", "culled")] == [1, 0]
    assert found["BP016", "image"]["mean_gain"] == pytest.approx(0.7)


def test_what_a_rollback_undid_and_what_came_twice_does_not_count(outcomes):
    teller = Teller("one")
    teller.germinate("s1", "BP009")
    teller.germinate("s2", "BP009")
    teller.move("s1", "BP009", TRAINING, CULLED)
    teller.say(pb.RolledBack(to_sequence=3, new_timeline=2, level="fast"))
    teller.stages = {"s1": GERMINATED, "s2": DORMANT}
    teller.move("s1", "BP009", PROBATIONARY, FOSSILIZED)
    teller.events += [teller.events[1], teller.events[-1]]

    found = outcomes(teller)
    row = found["BP009", "image"]
    assert list(found) == [("BP009", "image")]
    assert [row[name] for name in ("germinated", "fossilized", "culled", "undecided")] == [1, 1, 0, 0]
