"""Runs given to other tools and read back by these tools' own libraries; each is left out where it is not installed."""

from __future__ import annotations

import gzip
import json
import math

import pytest

from esper.cli.app import dispatch
from esper.errors import InvalidInput
from projections import open_sample, questions
from tests.listening import Answers, listening


def of(run, name: str) -> list[tuple[int, float]]:
    return [(each.at, each.value) for each in run.points if each.name == name]


def close(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """Equal but for what single precision takes away, which TensorBoard's files have."""
    return [at for at, _ in found] == [at for at, _ in expected] and all(
        math.isclose(a, b, rel_tol=1e-6) for (_, a), (_, b) in zip(found, expected, strict=True)
    )


def test_tensorboard_reads_every_figure_at_its_epoch_or_step_and_esper_reads_it_back(run, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, place = str(questions.folder()), tmp_path / "tb"
    given = ["export", run.run_id, "--data-dir", data, "--as", "tensorboard", "--to", str(place)]

    assert dispatch([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"][0] == {"run_id": run.run_id, "values": len(run.points), "notes": len(run.notes)}
    assert dispatch(given) == 2
    assert "an export overwrites nothing" in capsys.readouterr().err
    seen = EventAccumulator(str(place / run.run_id), {"scalars": 0, "tensors": 0}).Reload()
    times = {each.step: each.wall_time for each in seen.Scalars("epoch/probe_loss")}
    assert times == {p.at: pytest.approx(p.time_ns / 1e9) for p in run.points if p.name == "epoch/probe_loss"}
    for name in ("epoch/probe_loss", "step/loss"):
        expected = of(run, name)
        assert close([(each.step, each.value) for each in seen.Scalars(name)], expected), name
    (note, *_) = [each for each in run.notes if each.name.startswith("seeds/")]
    assert seen.Tensors(note.name)[0].tensor_proto.string_val[0].decode() == note.text
    assert seen.Tensors(note.name)[0].step == note.step

    query = "select count(*) n, max(step) last from foreign_metrics where name = 'epoch/probe_loss' and run = '{}'"
    asked = ["sql", query.format(run.run_id), "--sample", "--beside", f"tensorboard:{place}", "--json"]
    assert dispatch(asked) == 0
    last = max(at for at, _ in of(run, "epoch/probe_loss"))
    assert json.loads(capsys.readouterr().out) == [{"n": len(of(run, "epoch/probe_loss")), "last": last}]


def test_mlflow_has_the_run_with_its_steps_tags_and_settings_and_esper_reads_it_back(run, tmp_path, monkeypatch):
    """In its store of files, because making the tables of its database takes three seconds."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    from projections.interchange import foreign, mlflow

    place = (tmp_path / "store").as_uri()
    name = mlflow.write(run, place)
    with pytest.raises(InvalidInput, match=r"has run .* already"):
        mlflow.write(run, place)

    client = MlflowClient(tracking_uri=place)
    found = client.get_run(name)
    assert found.info.status == "FINISHED"
    assert found.info.start_time == run.started_ns // 1_000_000
    assert found.data.tags["esper.run_id"] == run.run_id
    assert found.data.params["seeds.lifecycle"] == run.settings["seeds.lifecycle"]
    history = client.get_metric_history(name, "epoch/probe_loss")
    assert [(each.step, each.value) for each in history] == of(run, "epoch/probe_loss")
    with open_sample() as asked:
        foreign.register(asked, [mlflow.read(place)])
        rows = asked.execute(
            "select r.name, r.tags['esper.run_id'], count(*) from foreign_runs r join foreign_metrics m using (run) "
            "where m.name = 'step/loss' group by all"
        ).fetchall()
    assert rows == [(run.label, run.run_id, len(of(run, "step/loss")))]


def test_a_place_without_runs_is_told_in_one_line(tmp_path):
    from projections.interchange import mlflow, tensorboard

    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    with pytest.raises(InvalidInput, match=r"holds no database of MLflow's"):
        mlflow.read(str(tmp_path))
    with pytest.raises(InvalidInput, match=r"holds no runs of TensorBoard's"):
        tensorboard.read(tmp_path)


def logged(content: bytes):
    """The records of a file of W&B's: LevelDB's log format, blocks of 32 KiB, behind a header of seven bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in {1, 4}:  # a whole record, or the last part of one
            yield record
            record = b""


def test_wandb_keeps_an_offline_run_with_its_axes(run, tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    from projections.interchange import wandb

    rows = wandb.write(run, tmp_path)

    (file,) = tmp_path.glob(f"wandb/offline-run-*/run-{run.run_id}.wandb")
    records = [wandb_internal_pb2.Record.FromString(each) for each in logged(file.read_bytes())]
    axes = {each.metric.glob_name: each.metric.step_metric for each in records if each.HasField("metric")}
    assert axes["epoch/*"] == "epoch"
    assert axes["step/*"] == "step"
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.HasField("history")
    ]
    assert len([each for each in history if {"epoch", "step"} & set(each)]) == rows
    found = [(each["epoch"], each["epoch/probe_loss"]) for each in history if "epoch/probe_loss" in each]
    assert found == of(run, "epoch/probe_loss")


@pytest.fixture
def collector():
    """An OTLP/HTTP receiver: what came, by its path, as bytes."""
    came: list[tuple[str, bytes]] = []

    class Receiver(Answers):
        def respond(self):
            body = self.body()
            came.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body))
            self.reply(200)

    with listening(Receiver) as address:
        yield address, came


def test_a_collector_that_is_not_there_is_told_in_one_line(run, capsys, caplog, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from projections.interchange import otlp

    monkeypatch.setattr(otlp, "_TIMEOUT_S", 1)
    given = ["export", run.run_id, "--data-dir", str(questions.folder()), "--as", "otlp", "--to", "http://127.0.0.1:9"]

    assert dispatch(given) == 2
    err = capsys.readouterr().err
    assert (err.count("\n"), caplog.text) == (1, "")
    assert err.startswith("esper: nobody took the run at http://127.0.0.1:9")


def test_a_collector_gets_the_trace_and_the_figures_with_the_times_of_the_record(run, collector, capsys):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    address, came = collector
    code = dispatch(["export", run.run_id, "--data-dir", str(questions.folder()), "--as", "otlp", "--to", address])

    assert code == 0, capsys.readouterr().err
    spans = {}
    services = {}
    for path, body in came:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                said = {each.key: each.value.string_value for each in resource.resource.attributes}
                if said["esper.run_id"] == run.run_id:
                    found = [span for scope in resource.scope_spans for span in scope.spans]
                    spans |= {span.span_id: span for span in found}
                    services |= {span.span_id: said["service.name"] for span in found}
    (root,) = [each for each in spans.values() if not each.parent_span_id]
    assert (root.name, root.start_time_unix_nano) == ("run", run.started_ns)
    assert len({each.trace_id for each in spans.values()}) == 1
    decide = next(each for each in spans.values() if each.name == "decide")
    line = []
    span = decide
    while span is not None:
        line.append(span.name)
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        span = spans.get(span.parent_span_id)
    assert line[:3] == ["decide", "decision", "hook"]
    assert line[3].startswith("epoch ")
    assert line[4:] == ["run"]
    assert services[decide.span_id] == "esper-decider"
    assert {"training", "checkpoint", "assembly", "command", "acknowledgement"} <= {
        each.name for each in spans.values()
    }
    moved = [event for each in spans.values() for event in each.events if event.name == "seed transitioned"]
    assert len(moved) >= 3

    values = [
        (metric.name, point.time_unix_nano, point.as_double)
        for path, body in came
        if path == "/v1/metrics"
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        if any(each.value.string_value == run.run_id for each in resource.resource.attributes)
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.gauge.data_points
    ]
    expected = [("esper.epoch.probe_loss", p.time_ns, p.value) for p in run.points if p.name == "epoch/probe_loss"]
    assert [each for each in values if each[0] == "esper.epoch.probe_loss"] == expected
    assert len(values) == len(run.points)
