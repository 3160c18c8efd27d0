"""The page: a run's story and pictures in one HTML file without scripts, fonts or anything from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1.leyline_pb2 import SeedLifecycleGate
from esper.karn.table import with_names
from esper.kasmina.gates import SIGNS, rule_of
from esper.metric import PERCENT, difference_text, figure_of_row, in_unit, number
from esper.spread import spread
from projections.pictures import of_run, svg
from projections.report.report_query import Report, Row, report_query

if TYPE_CHECKING:
    from projections.history import History

NARROW, WIDE = 390, 1040
MANY: Final = 2
"""Runs of different random seeds from which on their spread is told."""
NONE: Final = "\N{EN DASH}"
"""What stands where there is nothing."""


def page(history: History, run_id: str) -> str:
    """The report of a run as HTML; raises InvalidInput where the history does not have the run's start."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only a report needs it
    from markupsafe import Markup  # noqa: PLC0415

    told = report_query(history, run_id)
    environment = Environment(
        loader=PackageLoader("projections.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    environment.filters |= {
        "command": command,
        "dash": dash,
        "figure": figure,
        "gate": gate,
        "named": with_names,
        "rule": rule,
        "outcome": outcome,
    }
    css = resources.files("projections.report").joinpath("page.css").read_text("utf-8")
    drawn = {name: Markup(picture.svg) for name, picture in _pictures(history, told).items()}  # noqa: S704  ours, escaped
    return environment.get_template("page.html.j2").render(
        run=told.run,
        control=told.control,
        parent=told.parent,
        start=told.start,
        styles=Markup(css + svg.style()),  # noqa: S704  ours
        verdict=verdict(told),
        over_seeds=over_seeds(told),
        tiles=tiles(told),
        pictures=drawn,
        seeds=told.seeds,
        decided=told.decided,
        nothing=told.idle,
        gates=told.gates,
        commands=told.commands,
        rollbacks=told.rollbacks,
        alerts=told.alerts,
        events=told.events,
        costs=_costs(told),
        again=_again(told),
        determined=_determined(told),
        config=json.dumps(told.config, indent=2, sort_keys=True),
    )


def _pictures(history: History, told: Report) -> dict[str, svg.Picture]:
    runs, run_id = told.runs, str(told.run["run_id"])
    return {
        "metric": of_run.metric(history, runs),
        "loss": of_run.loss(history, runs),
        "parameters": of_run.parameters(history, runs),
        "flops": of_run.flops(history, runs),
        "alphas": of_run.alphas(history, run_id),
        "network_wide": of_run.network(history, run_id, WIDE),
        "network_narrow": of_run.network(history, run_id, NARROW),
        "seeds_wide": of_run.seeds(history, run_id, WIDE),
        "seeds_narrow": of_run.seeds(history, run_id, NARROW),
    }


def verdict(told: Report) -> str:
    """The run in a sentence or two."""
    run, control = told.run, told.control
    host, final = run["params_host"], run["params_final"] or run["params_host"]
    size = f"stayed at {figure(host)} parameters"
    if final != host:
        size = f"{'grew' if final > host else 'shrank'} from {figure(host)} parameters to {figure(final)}"
    tested = figure_of_row(run)
    if tested is None:
        return f"It {size} and has not been tested: it is {run['status']} after {run['epochs_done']} epochs."
    lower = f", {tested.direction}" if tested.lower_is_better else ""
    right = f"It {size} and came to {tested.name} {tested.text} on the test set{lower}"
    if (tested.name, tested.unit) == ("accuracy", PERCENT):
        right = f"It {size} and was right on {tested.bare}% of the test set"
    other = None if control is None else figure_of_row(control)
    if other is None or not other.is_like(tested):
        return f"{right}.{_in_doubt(run)}"
    gain = tested.gain_over(other.value)
    beside = f"{difference_text(abs(gain), tested.unit)} {'better' if gain >= 0 else 'worse'} than"
    beside += " its control run, which had the same data and epochs and did not grow"
    return f"{right}, {beside}.{_against_static(told)}{_in_doubt(run)}"


def _in_doubt(run: Row) -> str:
    """What the run ended with and had not decided on, and the network without it; empty where there is nothing."""
    count = run["seeds_unproven"]
    if not count or run["test_loss_without"] is None:
        return ""
    seeds, them = ("A seed", "it") if count == 1 else (f"{count} seeds", "them")
    losses = f"{figure(run['test_loss_without'])} instead of {figure(run['test_loss'])}"
    return f" {seeds} had not proven anything when it ended: without {them} the test loss is {losses}."


def over_seeds(told: Report) -> str:
    """What the runs of other random seeds say, too; empty where there is no other."""
    main = figure_of_row(told.run)
    like = [row for row in told.alike if main and (row["metric"], row["metric_unit"]) == (main.name, main.unit)]
    if main is None or len(like) < MANY:
        return ""
    said = [f"Over {len(like)} random seeds with these settings: {main.name} {_over(like, 'test_metric', main.unit)}"]
    for column, against in (("gain_over_control", "control runs"), ("gain_over_static", "static nets at equal FLOPs")):
        gain = spread([row[column] for row in like if row[column] is not None])
        if gain is not None and gain.half is not None:
            word = "within noise" if gain.holds_zero else "better" if gain.mean > 0 else "worse"
            said.append(f"{_over(like, column, main.unit)} against the {against} ({word})")
    lower = f" ({main.direction}; a gain above 0 is better)" if main.lower_is_better else ""
    return f"{'; '.join(said)}{lower}. \N{PLUS-MINUS SIGN} is half the 95 % interval of the mean."


def _over(rows: Sequence[Row], column: str, unit: str) -> str:
    """A column's mean with half its interval; of a gain with its sign."""
    told = spread([row[column] for row in rows if row[column] is not None])
    assert told is not None
    gain = column.startswith("gain")
    mean = ("+" if gain and told.mean >= 0 else "") + number(told.mean, unit)
    half = "" if told.half is None else f" \N{PLUS-MINUS SIGN} {number(told.half, unit)}"
    return in_unit(mean + half, "points" if gain and unit == PERCENT else unit)


def _against_static(told: Report) -> str:
    """What the static run says of growth; empty where there is none that completed."""
    run, static = told.run, told.static
    if static is None or static["status"] != "completed" or static["test_loss"] is None or run["test_loss"] is None:
        return ""
    loss = f"{figure(run['test_loss'])} against {figure(static['test_loss'])}"
    spent = f"{figure(run['flops'])} and {figure(static['flops'])} FLOPs"
    main, other = figure_of_row(run), figure_of_row(static)
    by_main = ""
    if main is not None and other is not None and main.is_like(other) and main.name != "loss":
        by_main = f"test {main.name} as {main.text} against {other.text} and by "
    net = "a net with that structure from its first step"
    return f" At equal cost ({spent}) {net} compares by {by_main}test loss as {loss}."


def tiles(told: Report) -> list[dict[str, str]]:
    """The run in figures: a name, a value and a note each."""
    run, control = told.run, told.control
    forms = {"test_loss": figure, "params_final": figure, "flops": figure, "wall_s": seconds}
    beside = {name: f"control {form(control[name])}" if control is not None else "" for name, form in forms.items()}
    kept = "-" if run["seeds_germinated"] is None else f"{run['seeds_fossilized']} of {run['seeds_germinated']}"
    culled = "" if run["seeds_culled"] is None else f"{run['seeds_culled']} culled"
    loss = () if run["metric"] == "loss" else (("Test loss", figure(run["test_loss"]), beside["test_loss"]),)
    named = (
        _measured(told),
        *loss,
        ("Parameters", figure(run["params_final"]), beside["params_final"] or f"{figure(run['params_host'])} at first"),
        ("FLOPs spent", figure(run["flops"]), beside["flops"]),
        ("Seeds kept", kept, culled),
        ("Time", seconds(run["wall_s"]), ", ".join(filter(None, (_processes(run), beside["wall_s"])))),
    )
    return [{"name": name, "value": value, "note": note} for name, value, note in named]


def _measured(told: Report) -> tuple[str, str, str]:
    """The tile of the main metric: its name with the direction, the value on the test set, and the control's."""
    tested = figure_of_row(told.run)
    other = None if told.control is None else figure_of_row(told.control)
    beside = f"control {other.text}" if other is not None else ""
    if tested is None:
        return "Test " + str(told.run["metric"]), NONE, beside
    lower = f" ({tested.direction})" if tested.lower_is_better else ""
    return f"Test {tested.name}{lower}", tested.text, beside


def _processes(run: Row) -> str:
    """In how many processes a run trained, where it was resumed; the time between them is not its own."""
    return f"in {run['incarnation']} processes" if run["incarnation"] > 1 else ""


def _costs(told: Report) -> list[dict[str, str]]:
    control = told.control or {}
    table = [
        ("parameters of the host", told.run["params_host"], control.get("params_host")),
        ("parameters at the end", told.run["params_final"], control.get("params_final")),
        ("FLOPs altogether", told.run["flops"], control.get("flops")),
        ("of them the seeds' own passes", *_spent(told, "side_pass_flops")),
        ("of them probes and evidence", *_spent(told, "probe_flops")),
        ("seconds on the clock", told.run["wall_s"], control.get("wall_s")),
    ]
    return [{"name": name, "grown": figure(grown), "control": figure(other)} for name, grown, other in table]


def _spent(told: Report, name: str) -> tuple[Any, Any]:
    return tuple(None if end is None else end[name] for end in (told.end, told.control_end))  # type: ignore[return-value]


def _again(told: Report) -> str:
    run_id = told.run["run_id"]
    seed = next((each["seed_id"] for each in told.seeds if each["life"]), "s1")
    lines = [
        f"{told.command}    # train it again",
        f"esper events {run_id}    # everything that happened, in order",
        f"esper why {run_id} {seed}    # the causal chain of a seed",
        f"esper sql \"from epochs where run_id = '{run_id}' order by epoch\"",
    ]
    return "\n".join(lines)


def _determined(told: Report) -> list[tuple[str, str]]:
    start = told.start
    versions = ", ".join(f"{name} {version}" for name, version in sorted(start["library_versions"].items()))
    seeds = ", ".join(f"{name} {seed}" for name, seed in sorted(start["seeds"].items()))
    sets = f"{start['train_samples']} training, {start['probe_samples']} probed, {start['test_samples']} test"
    found = [
        ("task", start["task_source"]),
        ("Esper", start["esper_version"]),
        ("libraries", versions),
        *_machines(told),
        ("random seeds", seeds),
        ("samples", sets),
        ("data, SHA-256", start["data_fingerprint"]),
        ("weights at step 0, SHA-256", start["weights_digest"].hex()),
    ]
    return found + ([("forked from", told.parent)] if told.parent else [])


def _machines(told: Report) -> list[tuple[str, str]]:
    """What each of a run's processes computed with, where that is known; its bits may depend on it."""
    start, processes = told.start, told.run["processes"] or []
    found = []
    for place, process in enumerate(processes, 1):
        machine = process["machine"] or {}
        first = start if place == 1 else {}
        parts = [machine.get(name) or first.get(name) for name in ("device", "processor", "cpu_capability")]
        threads = machine.get("threads") or first.get("threads")
        parts += [
            f"{threads} threads" if threads else "",
            f"torch build {machine['torch_build']}" if machine.get("torch_build") else "",
        ]
        name = "processor" if len(processes) == 1 else f"process {place}, from step {process['from_step']}"
        found.append((name, ", ".join(filter(None, parts)) or "not recorded"))
    return found


def figure(value: float | None) -> str:
    """A figure as people read it: whole numbers with commas, others to four digits, large ones by their power."""
    if value is None or not math.isfinite(value):
        return NONE
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    if abs(value) >= 1e6:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(_RAISED)}"
    return f"{value:.4g}"


_RAISED: Final = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def dash(value: object) -> str:
    """The value, or a dash where there is none."""
    return NONE if value is None or value == "" else str(value)


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return NONE
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def gate(name: str) -> str:
    """G1_GRADIENT_HEALTH as people read it."""
    code, _, rest = name.partition("_")
    return f"{code} {rest.lower().replace('_', ' ')}"


def rule(row: Row, measurement: str) -> str:
    """How a gate's figure must stand to its limit; of a figure that this Esper does not judge only that it has one."""
    number = SeedLifecycleGate.Value(f"SEED_LIFECYCLE_GATE_{row['gate']}")
    return SIGNS.get(rule_of(number, measurement), "limit")


def command(row: Row) -> str:
    """A command in a few words."""
    if row["command_type"] != "SEED":
        return str(row["command_type"]).lower().replace("_", " ")
    return " ".join(
        filter(None, (str(row["operation"]).lower().replace("_", " "), row["seed_id"], row["blueprint_id"]))
    )


def outcome(report: Mapping[str, Any]) -> str:
    """A field report in a few words."""
    told, epochs = str(report["outcome"]).lower(), report["observation_window_epochs"]
    if not epochs:
        return f"{told}: the run ended before an epoch had passed"
    delta = report["metrics"].get("loss_delta_total")
    change = "" if delta is None or not math.isfinite(delta) else f", probe loss {delta:+.4f}"
    return f"{told}{change} in {epochs} epoch{'' if epochs == 1 else 's'}"
