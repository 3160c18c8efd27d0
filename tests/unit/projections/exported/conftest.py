"""Exports to look at and to spoil, and a family of runs to export."""

from __future__ import annotations

import json
import shutil

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from projections import export, open_sample
from projections.archive_writer import Archive
from projections.testing import LogOfRecords


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The whole small history, exported."""
    folder = tmp_path_factory.mktemp("export") / "made"
    with open_sample() as history:
        runs = [run_id for (run_id,) in history.execute("select run_id from runs order by run_id").fetchall()]
        export.export(history, runs, folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(made, tmp_path / "copy")


def archive_of(folder, *started):
    """An archive of runs that only began, each with what is said of its start."""
    log = LogOfRecords()
    events = [
        new_event(
            pb.RunStarted(task="digits", **about),
            event_id=ids.derived_id(run_id.encode(), "start", 0),
            run_id=run_id,
            producer="trainer",
            recorded_at_ns=1_760_000_000_000_000_000 + place,
            sequence=1,
            incarnation=1,
            timeline=1,
        )
        for place, (run_id, about) in enumerate(started)
    ]
    with Archive(folder / "archive") as archive:
        archive.append(log.place(events))


@pytest.fixture
def related(tmp_path):
    """A run with a control, a fork of it, a fork of that, and a stranger; the first names objects."""
    store = ObjectStore(tmp_path / "data" / "objects")
    inner = store.put(b"the weights")
    outer = store.put(json.dumps({"tensors_ref": inner}).encode())
    archive_of(
        tmp_path / "data",
        ("first", {"task_source": outer.replace("sha256:", "file:"), "config_json": f"{outer} sha256:{'0' * 64}"}),
        ("first-control", {"control_of": "first"}),
        ("fork", {"parent_run_id": "first"}),
        ("fork2", {"parent_run_id": "fork"}),
        ("fork2-control", {"control_of": "fork2"}),
        ("other", {}),
    )
    store.put(b"of nobody")
    return tmp_path / "data"
