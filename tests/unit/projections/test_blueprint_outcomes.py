"""Which blueprints earned their place: ends, deltas and gains of a history that is told by hand."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina.lifecycle import CULLED, DORMANT, FOSSILIZED, GERMINATED, PROBATIONARY, TRAINING
from esper.leyline import ids
from esper.leyline.envelope import new_event
from projections import open_history
from projections.archive import Archive
from projections.testing import RECORDED_AT_NS, LogOfRecords

SITES = [
    pb.SiteDescription(site="stem", seed_id="s1", shape_kind="image", shape=[8, 4, 4]),
    pb.SiteDescription(site="head", seed_id="s2", shape_kind="vector", shape=[16]),
]
SHAPES = {"s1": ("image", [8, 4, 4]), "s2": ("vector", [16])}


class Teller:
    """Writes one run: what its trainer states, and Nissa's reports on it."""

    def __init__(self, run_id, *, control_of=""):
        self.run_id, self.events, self.sequence, self.epoch = run_id, [], 0, 0
        self.say(pb.RunStarted(task="digits", sites=SITES, control_of=control_of))

    def say(self, body, *, fact=True):
        self.sequence += fact
        self.events.append(
            new_event(
                body,
                event_id=ids.derived_id(self.run_id.encode(), "teller", len(self.events)),
                run_id=self.run_id,
                producer="trainer",
                recorded_at_ns=RECORDED_AT_NS + len(self.events),
                sequence=self.sequence if fact else 0,
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
        """The id of the command."""
        command_id = ids.derived_id(self.run_id.encode(), f"command {seed_id}", len(self.events))
        self.move(seed_id, blueprint_id, DORMANT, GERMINATED, command_id)
        self.say(
            pb.KernelAttached(
                seed_id=seed_id,
                blueprint_id=blueprint_id,
                module_parameters=parameters,
                flops_per_sample=2 * parameters,
            )
        )
        return command_id

    def move(self, seed_id, blueprint_id, source, target, command_id=b""):
        self.say(
            pb.SeedTransitioned(
                seed_id=seed_id, blueprint_id=blueprint_id, from_stage=source, to_stage=target, command_id=command_id
            )
        )

    def report(self, command_id, delta):
        metrics = {"loss_delta_total": delta}
        self.say(leyline.FieldReport(command_id=ids.text(command_id), metrics=metrics), fact=False)


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
    one.germinate("s1", "BP016", parameters=10)

    found = outcomes(one, other)
    counts = {key: [row[name] for name in ("runs", "germinated", "fossilized", "culled")] for key, row in found.items()}
    assert counts == {
        ("BP009", "image"): [2, 2, 1, 1],
        ("BP009", "vector"): [2, 2, 0, 0],
        ("BP016", "image"): [1, 1, 0, 0],
    }
    assert [found["BP009", "vector"][name] for name in ("undecided", "parameters", "flops_per_sample")] == [2, 50, 100]
    assert found["BP009", "image"]["shape"] == [8, 4, 4]


def test_the_mean_delta_has_the_interval_of_student(outcomes):
    deltas = [-0.4, -0.1, 0.2]
    tellers = [Teller(f"run{number}") for number in range(len(deltas))]
    for teller, delta in zip(tellers, deltas, strict=True):
        teller.report(teller.germinate("s1", "BP009"), delta)

    row = outcomes(*tellers)["BP009", "image"]
    error = statistics.stdev(deltas) / math.sqrt(3)
    low, high = stats.t.interval(0.95, 2, loc=statistics.mean(deltas), scale=error)
    assert [row["reported"], row["mean_delta"]] == [3, pytest.approx(statistics.mean(deltas))]
    assert [row["delta_low"], row["delta_high"]] == [pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3)]
    assert [row["compared"], row["mean_gain"], row["gain_low"]] == [0, None, None]


def test_a_single_report_and_one_without_a_number_have_no_interval(outcomes):
    one, other = Teller("one"), Teller("other")
    one.report(one.germinate("s1", "BP009"), -0.5)
    other.report(other.germinate("s1", "BP009"), math.nan)

    row = outcomes(one, other)["BP009", "image"]
    assert [row[name] for name in ("germinated", "reported", "mean_delta", "delta_low")] == [2, 1, -0.5, None]


def test_the_gain_is_what_the_control_did_not_win_by_itself(outcomes):
    """The loss fell by 0.5 over two epochs, the control's over the same two by 0.2."""
    grown, control = Teller("grown"), Teller("grown-control", control_of="grown")
    control.train(1.0, 0.9, 0.8, 0.1)
    grown.train(1.0)
    command_id = grown.germinate("s1", "BP009")
    grown.train(0.7, 0.5)
    grown.report(command_id, -0.5)

    row = outcomes(grown, control)["BP009", "image"]
    assert [row["compared"], row["mean_gain"]] == [1, pytest.approx(0.3)]


def test_what_a_rollback_undid_and_what_came_twice_does_not_count(outcomes):
    teller = Teller("one")
    kept = teller.germinate("s1", "BP009")
    undone = teller.germinate("s2", "BP009")
    teller.move("s1", "BP009", TRAINING, CULLED)
    teller.say(pb.RolledBack(to_sequence=3, new_timeline=2, level="fast"))
    teller.move("s1", "BP009", PROBATIONARY, FOSSILIZED)
    teller.report(undone, 9.0)
    teller.report(kept, -0.25)
    teller.events += [teller.events[1], teller.events[-1], teller.events[-3]]

    found = outcomes(teller)
    row = found["BP009", "image"]
    assert list(found) == [("BP009", "image")]
    assert [row[name] for name in ("germinated", "fossilized", "culled", "mean_delta")] == [1, 1, 0, -0.25]
