"""Tensors hold what the events say: compared value by value with protobuf's own objects, by both ways to columns."""

from __future__ import annotations

import math
import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline.envelope import new_event
from projections.decode import decode as decode_all
from projections.narrow import Narrow, lawful
from projections.records import batches_of
from projections.testing import LogOfRecords
from streams.feed import LONGEST, Field, Schema
from streams.feed.batch import Selection, decode
from streams.feed.cursor import PartitionCursor
from streams.feed.live import Live

FIELDS = [
    Field("event_id", "id", width=16),
    Field("causation_id", "cause", width=16),
    Field("recorded_at_ns", "at"),
    "log_partition",
    "log_offset",
    "log_timestamp_ms",
    "conservative",
    "params",
    "flops",
    Field("policy", among=("heuristic", "random")),
    "state.validation_loss",
    "state.hardware_context.temperature_celsius",
    "state.training_metrics[loss]",
    "probe_loss_history",
    Field("probe_loss_history", "last", pad=2),
    Field("seeds.contribution", "helps"),
    Field("seeds.stage", "stage", pad=LONGEST),
    Field("seeds.blueprint_id", "grown", among=("BP009", "BP010"), pad=4),
    Field("seeds.gate_ready", "ready"),
]
SCHEMA = Schema("epoch_completed", FIELDS)


def packets(count: int) -> list[event_pb2.Event]:
    """State packets with something missing here and there."""
    chance = random.Random(count)
    made = []
    for number in range(count):
        body = event_pb2.EpochCompleted(
            params=2**40 + number,
            flops=1e12 / (number + 1),
            policy=chance.choice(["heuristic", "random", "another", ""]),
            conservative=number % 3 == 0,
            probe_loss_history=[chance.random() for _ in range(chance.randrange(4))],
        )
        if number % 5:
            state = leyline_pb2.SystemStatePacket(
                version=1, validation_loss=chance.random(), training_metrics={"a": 1.0}
            )
            if number % 2:
                state.training_metrics["loss"] = chance.random()
                state.hardware_context.temperature_celsius = 40 + number
            body.state.CopyFrom(state)
        for _ in range(chance.randrange(7)):
            seed = body.seeds.add(
                stage=chance.randrange(9), blueprint_id=chance.choice(["BP009", "BP010", "BP011", ""])
            )
            seed.gate_ready = chance.random() < 0.5
            if chance.random() < 0.5:
                seed.contribution = chance.random()
        made.append(
            new_event(
                body,
                event_id=chance.randbytes(16),
                causation_id=chance.randbytes(chance.choice([0, 4, 16])),
                run_id="run",
                producer="trainer",
                recorded_at_ns=1_760_000_000_000_000_000 + number,
            )
        )
    return made


def by_the_archive(events):
    placed = LogOfRecords().place(events)
    return Selection(SCHEMA, None, None).flat(decode_all(batches_of(placed))["epoch_completed"])


def by_the_log(events):
    """The way of live records, without a broker: narrow columns, and the table that `Live` makes of them."""
    selection = Selection(SCHEMA, None, None)
    placed = LogOfRecords().place(events)
    columns = Narrow({SCHEMA.body: selection.body_fields}, selection.envelope).columns([each.value for each in placed])
    assert lawful(columns).all()
    live = Live([PartitionCursor(SCHEMA.body, placed[0].partition)], {SCHEMA.body: selection}, None, 0)
    table = live._table(SCHEMA.body, placed, columns, np.array([each.offset for each in placed]))
    return selection.flat(table)


def same(found, expected):
    """Equal, a number that is none being equal to another."""
    return found == pytest.approx(expected, nan_ok=True, rel=1e-6)


@pytest.mark.parametrize("way", [by_the_archive, by_the_log])
def test_every_tensor_holds_what_the_events_say(way):
    events = packets(60)
    placed = LogOfRecords().place(events)
    bodies = [event.epoch_completed for event in events]

    batch = decode(SCHEMA, way(events))

    assert len(batch) == 60
    assert [bytes(row) for row in batch["id"].numpy()] == [event.event_id for event in events]
    assert [bytes(row) for row in batch["cause"].numpy()] == [event.causation_id.ljust(16, b"\0") for event in events]
    assert batch["at"].tolist() == [event.recorded_at_ns for event in events]
    assert batch["log_partition"].tolist() == [record.partition for record in placed]
    assert batch["log_offset"].tolist() == list(range(60))
    assert batch["log_timestamp_ms"].tolist() == [record.timestamp for record in placed]
    assert batch["conservative"].tolist() == [body.conservative for body in bodies]
    assert batch["params"].tolist() == [body.params for body in bodies]
    assert same(batch["flops"].tolist(), [body.flops for body in bodies])
    assert batch["policy"].tolist() == [{"heuristic": 1, "random": 2}.get(body.policy, 0) for body in bodies]
    losses = [body.state.validation_loss if body.HasField("state") else math.nan for body in bodies]
    assert same(batch["state.validation_loss"].tolist(), losses)
    warm = [body.state.hardware_context.temperature_celsius or math.nan for body in bodies]
    assert same(batch["state.hardware_context.temperature_celsius"].tolist(), warm)
    metrics = [body.state.training_metrics.get("loss", math.nan) for body in bodies]
    assert same(batch["state.training_metrics[loss]"].tolist(), metrics)


@pytest.mark.parametrize("way", [by_the_archive, by_the_log])
def test_lists_come_ragged_or_padded(way):
    bodies = [event.epoch_completed for event in packets(60)]

    batch = decode(SCHEMA, way(packets(60)))

    offsets = batch["probe_loss_history.offsets"]
    assert offsets.tolist() == np.cumsum([0, *(len(body.probe_loss_history) for body in bodies)]).tolist()
    flat = [loss for body in bodies for loss in body.probe_loss_history]
    assert same(batch["probe_loss_history"].tolist(), flat)
    cut = [list(body.probe_loss_history)[:2] for body in bodies]
    assert batch["last"].shape == (60, 2)
    assert [
        same(row[mask].tolist(), want) for row, mask, want in zip(batch["last"], batch["last.mask"], cut, strict=True)
    ]
    assert batch["last.mask"].sum(1).tolist() == [len(row) for row in cut]
    helps = [seed.contribution if seed.HasField("contribution") else math.nan for body in bodies for seed in body.seeds]
    assert same(batch["helps"].tolist(), helps)
    longest = max(len(body.seeds) for body in bodies)
    assert batch["stage"].shape == (60, longest)
    assert batch["stage"].tolist() == [
        [seed.stage for seed in body.seeds] + [0] * (longest - len(body.seeds)) for body in bodies
    ]
    codes = {"BP009": 1, "BP010": 2}
    grown = [[codes.get(seed.blueprint_id, 0) for seed in body.seeds][:4] for body in bodies]
    assert batch["grown"].tolist() == [row + [0] * (4 - len(row)) for row in grown]
    assert batch["ready"].tolist() == [seed.gate_ready for body in bodies for seed in body.seeds]


def test_shapes_and_dtypes_are_those_of_the_documented_table():
    batch = decode(SCHEMA, by_the_archive(packets(20)))

    kinds = {name: (batch[name].dtype, batch[name].dim()) for name in batch}
    assert kinds["id"] == (torch.uint8, 2)
    assert kinds["params"] == kinds["policy"] == kinds["log_offset"] == (torch.int64, 1)
    assert kinds["state.validation_loss"] == (torch.float32, 1)
    assert kinds["flops"] == (torch.float64, 1)
    assert kinds["conservative"] == (torch.bool, 1)
    assert kinds["probe_loss_history"] == (torch.float32, 1)
    assert kinds["probe_loss_history.offsets"] == (torch.int64, 1)
    assert kinds["stage"] == (torch.int64, 2)
    assert kinds["stage.mask"] == (torch.bool, 2)
    assert batch.matrix(["state.validation_loss", "params"]).shape == (20, 2)
    batch["params"].add_(1)  # a tensor may be written to


def test_a_batch_of_nothing_has_the_same_tensors():
    nothing = decode(SCHEMA, by_the_archive(packets(3)).slice(0, 0))

    assert len(nothing) == 0
    assert set(nothing) == set(decode(SCHEMA, by_the_archive(packets(3))))
    assert nothing["probe_loss_history.offsets"].tolist() == [0]


def test_slices_give_what_the_whole_gives():
    """Batches are slices of columns whose lists begin anywhere."""
    flat = by_the_archive(packets(50))
    whole = decode(SCHEMA, flat)

    parts = [decode(SCHEMA, flat.slice(start, 7)) for start in range(0, 50, 7)]

    for name in ("id", "params", "log_offset", "probe_loss_history", "ready", "grown"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name


def test_a_column_that_an_older_archive_lacks_is_null():
    old = pa.table({"log_partition": pa.array([0, 0], pa.int32()), "log_offset": pa.array([0, 1], pa.int64())})

    batch = decode(SCHEMA, Selection(SCHEMA, None, None).flat(old))

    assert batch["params"].tolist() == [0, 0]
    assert batch["state.validation_loss"].isnan().all()
    assert batch["stage"].shape == (2, 0)
    assert batch["id"].sum() == 0
