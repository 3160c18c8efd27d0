"""The summary at a run's end: its figures beside the control's and the static net's, what grew, what it cost."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from shlex import quote
from typing import Any

from esper.cli.output import BOLD, DIM, GREEN, RED, one_line, styled, table
from esper.cli.run_view import Life, RunView
from esper.karn.table import with_names
from esper.metric import Figure, difference_text, figures_of_test


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, in seconds: until the grown run's first step, from its last step to the summary, in all.

    The first two are None for a run that made no step. `torch_import_s` is the part of the first that went into
    importing torch and torch._dynamo. `cpu_s` is processor time, of the command and of the processes
    that it started and that have ended, with what those started; of services that it found running it has nothing.
    """

    first_step_s: float | None
    prompt_s: float | None
    torch_import_s: float
    cpu_s: float
    wall_s: float

    @classmethod
    def until_now(cls, began_at: float, steps: tuple[float, float] | None, torch_import_s: float) -> Cost:
        """The cost now; `began_at` and the times of the first and the last step are of the clock `time.monotonic`."""
        now = time.monotonic()
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(
            first_step_s=None if steps is None else steps[0] - began_at,
            prompt_s=None if steps is None else now - steps[1],
            torch_import_s=torch_import_s,
            cpu_s=sum(use.ru_utime + use.ru_stime for use in uses),
            wall_s=now - began_at,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The runs as the archive has them. `hook_ms` has p50 and p99; a run that there was not is None.

    `flops` are those of the grown run by purpose, as its trainer counted them. `lost` of their events
    are not in the archive, and at `gone` offsets the log gave it nothing: telemetry may have been there, or nothing
    ever. `to_go` records lie before their end still. `profile` is the file of the trace that was asked for.
    """

    grown: RunView
    control: RunView | None
    seed: int
    hook_ms: Mapping[str, float]
    cost: Cost
    data_dir: str
    flops: Mapping[str, float] = field(default_factory=dict)
    static: RunView | None = None
    lost: int = 0
    gone: int = 0
    to_go: int = 0
    profile: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The one object of `esper run --json`. `test_metric` and its like are the main metric's, in its unit.

        The keys with `accuracy`, from 0 to 1, are those of before there were metrics, and go with the next version.
        """
        started, finished = self.grown.started, self.grown.finished
        static = self._static_end
        main = self.main
        return {
            "run_id": self.grown.run_id,
            "task": started.task,
            "seed": self.seed,
            "epochs": self.grown.epoch,
            "metric": main.metric_dict(),
            "test_metric": main.value,
            "probe_metric": self.grown.figures[0].value if self.grown.figures else None,
            "control_test_metric": _value_of(main, self._control_end),
            "static_test_metric": _value_of(main, static),
            "metrics": [each.to_dict() for each in figures_of_test(finished)],
            "val_accuracy": finished.test_accuracy,
            "control_val_accuracy": self._control_end.test_accuracy if self._control_end is not None else None,
            "params_host": started.params_host,
            "params_final": finished.params_final,
            "flops": dict(self.flops),
            "control_flops": self._control_end.flops if self._control_end is not None else None,
            "static_run_id": self.static.run_id if self.static is not None else None,
            "static_val_accuracy": static.test_accuracy if static is not None else None,
            "static_flops": static.flops if static is not None else None,
            "test_loss": finished.test_loss,
            "static_test_loss": static.test_loss if static is not None else None,
            "growth": self.growth,
            "seeds": {
                "germinated": finished.germinated,
                "fossilized": finished.fossilized,
                "culled": finished.culled,
            },
            "unproven": list(finished.unproven),
            "val_accuracy_without": _optional(finished, "test_accuracy_without"),
            "test_loss_without": _optional(finished, "test_loss_without"),
            "events": self.grown.events,
            "records_lost": self.lost,
            "records_to_archive": self.to_go,
            "hook_ms": {"p50": round(self.hook_ms["p50"], 3), "p99": round(self.hook_ms["p99"], 3)},
            **{name: None if each is None else round(each, 3) for name, each in asdict(self.cost).items()},
            "profile": self.profile,
        }

    def text(self) -> str:
        """The same for a person."""
        return "\n".join(self._lines())

    @property
    def _control_end(self) -> Any:
        """How the control run ended; None where there was none, or it is not over: half a run is nothing to compare."""
        return _completed(self.control)

    @property
    def _static_end(self) -> Any:
        """The same of the static run."""
        return _completed(self.static)

    @property
    def main(self) -> Figure:
        """The main metric on the test set."""
        return figures_of_test(self.grown.finished)[0]

    @property
    def judged(self) -> tuple[Figure, Figure] | None:
        """What growth is judged by, of the grown run and of the static one; None where there is none.

        The main metric where its standard error is known, else the test loss with that of the probe set.
        """
        end = self._static_end
        if end is None:
            return None
        static = _same(self.main, end)
        if static is not None and self.main.stderr is not None and static.stderr is not None:
            return self.main, static
        assert self.static is not None
        loss = Figure("loss", "", True, self.grown.finished.test_loss, self.grown.probe_stderr)
        return loss, replace(loss, value=end.test_loss, stderr=self.static.probe_stderr)

    @property
    def noise(self) -> float:
        """How far apart the two may be by chance: two standard errors of their difference."""
        assert self.judged is not None
        return 2.0 * math.hypot(*(each.stderr or 0.0 for each in self.judged))

    @property
    def growth(self) -> str | None:
        """Whether the grown net is better than the static one, at equal FLOPs; None where none is there.

        `paid`, `did not pay`, or `within noise`.
        """
        if self.judged is None:
            return None
        grown, static = self.judged
        gain = grown.gain_over(static.value)
        if abs(gain) <= self.noise:
            return "within noise"
        return "paid" if gain > 0 else "did not pay"

    def _verdict(self) -> Iterator[str]:
        """What the static run says of growth, in one sentence."""
        grown, static = self.grown.finished, self._static_end
        if self.static is not None and static is None:
            way = f"`esper resume {self.grown.run_id}` goes on with it"
            yield f"the static run did not complete, so it is left out; {way}"
        if static is None:
            control = self._control_end
            if control is not None and not grown.fossilized:
                yield (
                    f"growth did not pay: nothing became part of the network for good, and that took {grown.flops:.3g} "
                    f"FLOPs where the control run took {control.flops:.3g}"
                )
            return
        steps = static.flops - static.probe_flops  # whoever trains a static net needs no probes
        budget = f"at equal FLOPs ({grown.flops:.3g} and {steps:.3g})"
        assert self.judged is not None
        one, other = self.judged
        lower = f", {one.direction}" if one.lower_is_better else ""
        both = f"test {one.phrase} grown, {other.text} static{lower}"
        if self.growth == "within noise":
            yield (
                f"growth made no difference beyond noise: {budget} a net that has the grown structure from its first "
                f"step is as good ({both}; within {difference_text(self.noise, one.unit)} is noise)"
            )
            return
        colour, verb = (GREEN, "paid") if self.growth == "paid" else (RED, "did not pay")
        which = "worse" if self.growth == "paid" else "better"
        yield (
            styled(f"growth {verb}", colour)
            + f": {budget} a net that has the grown structure from its first step is {which} ({both})"
        )

    def _unproven(self) -> Iterator[str]:
        """What the run ended with and had not decided on, and the network without it."""
        end = self.grown.finished
        if not end.unproven:
            return
        seeds = one_line(" and ".join(end.unproven))
        were = "is in the network and has" if len(end.unproven) == 1 else "are in the network and have"
        measured = [Figure(each.name, each.unit, each.lower_is_better, each.value) for each in end.metrics_without]
        figures = ", ".join([*(one_line(each.phrase) for each in measured), f"loss {end.test_loss_without:.4f}"])
        without = f"; without, on the test set: {figures}" if end.HasField("test_loss_without") else ""
        yield f"{seeds} {were} not proven anything, because the run ended before{without}"

    def _lines(self) -> Iterator[str]:
        grown = self.grown
        yield ""
        task = one_line(grown.started.task)
        yield styled(f"run {grown.run_id}: {task}, {grown.epoch} epochs, {self.cost.wall_s:.1f} s", BOLD)
        yield ""
        headers = ("", *(name for name, view in self._views().items() if view is not None))
        yield table(headers, self._figures(), right=(1, 2, 3))
        yield from self._verdict()
        yield from self._unproven()
        if self.control is not None and self._control_end is None:
            yield f"the control run did not complete, so it is left out; `esper resume {grown.run_id}` goes on with it"
        yield ""
        yield styled("seeds", DIM)
        yield from self._seeds()
        yield ""
        others = {"control": self.control, "static": self.static}
        also = "".join(f" and {view.events:,} of the {name} run" for name, view in others.items() if view is not None)
        yield f"events written   {grown.events:,}{also}{self._kept()}"
        yield f"epoch hook       p50 {self.hook_ms['p50']:.1f} ms, p99 {self.hook_ms['p99']:.1f} ms"
        if self.profile is not None:
            yield f"profile          {one_line(self.profile)}: open it at https://ui.perfetto.dev or chrome://tracing"
        yield ""
        yield styled("try next", DIM)
        yield from (f"  {command}" for command in self._next())

    def _kept(self) -> str:
        """Where the events are, and which are not."""
        if self.lost:
            return (
                f"; {self.lost:,} of them are not in the archive of {self.data_dir}: the log deleted them before it "
                "came for them, or a file is damaged, and `esper archive status` says which"
            )
        if self.to_go:
            return (
                f"; the archive of {self.data_dir} comes to them after {self.to_go:,} records that lie on the log "
                "before, with the next run or `esper up`"
            )
        if self.gone:
            return (
                f", in the archive of {self.data_dir} but for what the log did not give it at {self.gone:,} offsets: "
                "`esper archive status` names them"
            )
        return f", all in the archive of {self.data_dir}"

    def _views(self) -> dict[str, RunView | None]:
        """The runs of the table; one that did not complete is left out."""
        others = {"control": self.control, "static": self.static}
        return {"grown": self.grown, **{name: view if _completed(view) else None for name, view in others.items()}}

    def _figures(self) -> Iterator[tuple[str, ...]]:
        views = [view for view in self._views().values() if view is not None]
        ends = [view.finished for view in views]
        yield from self._measured(ends)
        yield ("parameters", *(f"{view.parameters:,}" for view in views))
        yield ("FLOPs", *(f"{end.flops:.3g}" for end in ends))
        yield ("of them side passes", *(f"{end.side_pass_flops:.3g}" for end in ends))
        yield ("of them probes and evidence", *(f"{end.probe_flops:.3g}" for end in ends))

    def _measured(self, ends: Sequence[Any]) -> Iterator[tuple[str, ...]]:
        """A row for each metric on the test set, and one for the loss."""
        figures = figures_of_test(ends[0])
        for place, each in enumerate(figures):
            gain = self._gain() if place == 0 else ""
            told = [_same(each, end) for end in ends]
            yield (f"test {one_line(each.label)}{gain}", *("-" if one is None else one.bare for one in told))
        if all(each.name != "loss" for each in figures):
            yield ("test loss", *(f"{end.test_loss:.4f}" for end in ends))

    def _gain(self) -> str:
        """What growth won over the control run by the main metric, coloured by its sign: above 0 is better."""
        control = None if self._control_end is None else _same(self.main, self._control_end)
        if control is None or not (control.known and self.main.known):
            return ""
        gain, told = self.main.gain_over(control.value), one_line(self.main.gain_text(control.value))
        known = self.main.stderr is not None and control.stderr is not None
        if known and abs(gain) <= 2.0 * math.hypot(self.main.stderr or 0.0, control.stderr or 0.0):
            return f" ({told}, within noise)"
        if self.main.lower_is_better:
            told += " better" if gain > 0 else " worse" if gain < 0 else ""
        return f" ({styled(told, GREEN if gain >= 0 else RED)})"

    def _seeds(self) -> Iterator[str]:
        for life in self.grown.lives:
            yield f"  {one_line(describe_life(life))}"
        grew = {life.seed_id for life in self.grown.lives}
        for seed in self.grown.seeds.values():
            if seed.seed_id not in grew:
                since = f", which {seed.opened_by} opened in epoch {seed.opened_epoch}," if seed.opened_by else ""
                yield one_line(f"  {seed.seed_id} at {seed.site}{since} never germinated")

    def _next(self) -> Iterator[str]:
        run_id = self.grown.run_id
        if self.grown.lives:
            yield f"esper why {run_id} {quote(self.grown.lives[0].seed_id)}"
        yield f"esper events {run_id} --type decision_made"
        yield f"esper sql \"from epochs where run_id = '{run_id}' order by epoch\""
        yield "esper runs"


def _completed(view: RunView | None) -> Any:
    end = view.finished if view is not None else None
    return end if end is not None and end.status == "completed" else None


def _same(figure: Figure, end: Any) -> Figure | None:
    """The value of the same metric at the end of another run; None where that was not measured by it."""
    return next((each for each in figures_of_test(end) if each.is_like(figure)), None)


def _value_of(figure: Figure, end: Any) -> float | None:
    same = None if end is None else _same(figure, end)
    return None if same is None else same.value


def _optional(message: Any, name: str) -> float | None:
    return float(getattr(message, name)) if message.HasField(name) else None


def describe_life(life: Life) -> str:
    """What became of a seed in one of its lives, and why."""
    which = f" (life {life.life})" if life.life > 1 else ""
    reason = f": {life.reason}" if life.reason else ""
    return with_names(
        f"{life.seed_id}{which} at {life.site} grew {life.blueprint_id} with {life.parameters:,} parameters in epoch "
        f"{life.from_epoch} and is {life.stage} since epoch {life.to_epoch}{reason}"
    )
