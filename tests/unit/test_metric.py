"""Metrics: names, units, directions, gains with the right sign, and what an evaluation makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import esper
from contracts.leyline.v1.event_pb2 import EpochCompleted, MetricValue, RunFinished
from contracts.leyline.v1.leyline_pb2 import SystemStatePacket
from esper.errors import InvalidInput
from esper.metric import Figure, Metric, accuracy_of, figures_of_probe, figures_of_test
from esper.tolaria.data import Samples
from esper.tolaria.tasks import ACCURACY, NATS, Task, load_task
from esper.tolaria.tasks.task import evaluate, share_correct

MAE = Metric(
    "mae", "mm", lower_is_better=True, per_sample=lambda out, wanted: (out - wanted).abs().mean(dim=1), scale=2
)


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean(dim=1)


def r2(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 1 - (outputs - targets).square().sum() / (targets - targets.mean()).square().sum()


R2 = Metric("r2", lower_is_better=False, per_set=r2)


def regression(**also) -> Task:
    """Targets of one column, 1 to 1,000; the host, given them as inputs, gives them back."""
    values = torch.arange(1.0, 1001.0).view(-1, 1)
    how = {"make_host": nn.Identity, "sites": (), "inputs": values, "targets": values, "per_sample_loss": squared}
    return Task.from_samples("parts", **(how | also))


class Off(nn.Module):
    """Gives its input and 0.25 more."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + 0.25


def test_it_is_the_packages_own():
    assert esper.Metric is Metric


@pytest.mark.parametrize(
    ("figure", "other", "text", "label", "gain", "told"),
    [
        (accuracy_of(0.9698), 92.46, "96.98 %", "accuracy (%)", 4.52, "+4.52 points"),
        (accuracy_of(0.9), 92.46, "90.00 %", "accuracy (%)", -2.46, "-2.46 points"),
        (MAE.of(1.5), 2.0, "1.5000 mm", "mae (mm, lower is better)", 0.5, "+0.5000 mm"),
        (MAE.of(2.5), 2.0, "2.5000 mm", "mae (mm, lower is better)", -0.5, "-0.5000 mm"),
        (Figure("r2", "", False, 0.25), 0.5, "0.2500", "r2", -0.25, "-0.2500"),
        (accuracy_of(-0.61), 0.0, "-0.6100", "accuracy", -0.61, "-0.6100"),  # what a task once called so
        (NATS.of(12345678.0), 0.0, "1.23e+07 nats", "loss (nats, lower is better)", -12345678.0, "-1.23e+07 nats"),
    ],
)
def test_a_gain_above_zero_is_better_whichever_the_direction(figure, other, text, label, gain, told):
    assert (figure.text, figure.label) == (text, label)
    assert figure.gain_over(other) == pytest.approx(gain)
    assert figure.gain_text(other) == told


def test_an_unknown_value_is_said_to_be_unknown():
    assert (MAE.of(math.nan).text, MAE.of(math.inf).bare) == ("unknown", "-")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Metric("", lower_is_better=True), "needs a name"),
        (lambda: Metric("a\nb", lower_is_better=True), "one line"),
        (lambda: Metric("mae", "m" * 41, lower_is_better=True), "its unit"),
        (lambda: Metric("mae", lower_is_better="yes"), "say True for an error"),
        (lambda: Metric("mae", lower_is_better=True, scale=0.0), "scale is 0.0"),
        (lambda: Metric("mae", lower_is_better=True, per_sample=squared, per_set=r2), "not both"),
        (lambda: regression(metrics=(Metric("mae", lower_is_better=True),)), "has no function"),
        (lambda: regression(metrics=(MAE, MAE)), "two metrics are called mae"),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line(make, why):
    with pytest.raises(InvalidInput, match=why) as refused:
        make()

    assert "\n" not in str(refused.value)


def test_a_regression_is_measured_in_its_unit_and_has_no_accuracy():
    task = regression(metrics=(MAE, R2))

    found = evaluate(Off(), task, task.test)

    assert [figure.phrase for figure in found.figures] == ["mae 0.5000 mm", "r2 1.0000"]
    assert found.loss.mean == 0.0625
    assert math.isnan(found.accuracy)


def test_floating_point_targets_without_metrics_are_measured_by_their_loss():
    task = regression()
    scored = regression(per_sample_accuracy=lambda out, wanted: -squared(out, wanted))

    found = evaluate(Off(), scored, scored.test)

    assert [(metric.name, metric.lower_is_better) for metric in task.measured_by] == [("loss", True)]
    assert [figure.phrase for figure in found.figures] == ["loss 0.0625", "score -0.0625"]
    assert found.accuracy == -0.0625  # as it always was, for policies and old keys


def test_all_metrics_take_one_forward_pass_and_the_loss_is_not_computed_twice():
    task = load_task("doc")
    calls = {"forward": 0, "loss": 0}
    host = task.make_host()
    host.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls["loss"] += 1
        return NATS.per_sample(outputs, targets)

    counted = replace(task, per_sample_loss=loss, metrics=(replace(NATS, per_sample=loss), ACCURACY))
    found = evaluate(host, counted, task.probe.take(torch.arange(3)))

    assert calls == {"forward": 1, "loss": 1}
    assert [figure.name for figure in found.figures] == ["loss", "accuracy"]
    assert found.figures[0].value == found.loss.mean
    assert found.figures[1].value == 100 * found.accuracy


@pytest.mark.parametrize(("name", "main"), [("digits", "accuracy"), ("tab", "accuracy"), ("chars", "loss")])
def test_built_in_tasks_keep_what_they_were_measured_by(name, main):
    task = load_task(name)
    few = Samples(task.test.inputs[:40], task.test.targets[:40])
    host = task.make_host()

    found = evaluate(host, task, few)
    with torch.no_grad():
        share = float(share_correct(host.eval()(few.inputs), few.targets).double().mean())

    assert (task.measured_by[0].name, found.accuracy) == (main, share)


@pytest.mark.parametrize(
    "gives",
    [
        lambda out, wanted: (out - wanted).abs(),  # (N, 1)
        lambda out, wanted: (out - wanted).abs().mean(),
        lambda *_: 1.0,
        lambda *_: torch.zeros(7),
    ],
)
def test_a_metric_that_is_not_one_figure_per_sample_is_named(gives):
    task = regression(metrics=(replace(MAE, per_sample=gives),))

    with pytest.raises(
        InvalidInput, match=r"task parts: per_sample of metric mae returned .*one figure for each sample"
    ):
        evaluate(Off(), task, task.test)


def test_a_metric_of_a_set_that_is_no_number_is_named():
    task = regression(metrics=(replace(R2, per_set=lambda *both: both[0]),))

    with pytest.raises(InvalidInput, match="metric r2: per_set returned Tensor"):
        evaluate(Off(), task, task.test)


def test_records_without_metrics_have_the_accuracy_and_others_what_they_say():
    told = [MetricValue(name="mae", unit="mm", lower_is_better=True, value=0.5)]
    old = EpochCompleted(state=SystemStatePacket(validation_accuracy=0.5))

    assert [figure.phrase for figure in figures_of_probe(old)] == ["accuracy 50.00 %"]
    assert figures_of_test(RunFinished(test_accuracy=0.25))[0].value == 25.0
    assert figures_of_test(RunFinished(test_accuracy=math.nan, metrics=told)) == [MAE.of(0.5)]
    assert figures_of_probe(EpochCompleted(metrics=told)) == [MAE.of(0.5)]
