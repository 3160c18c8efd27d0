"""`esper run --seeds 0..4`: the same run for each random seed, one after the other, and one table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from esper.cli import RUN_FAILED
from esper.cli.output import BOLD, GREEN, RED, one_line, say, say_json, styled, table
from esper.cli.run import RunRequest, check_names, trained
from esper.cli.summary import Summary
from esper.errors import InvalidInput
from esper.metric import Figure, difference_text, figures_of_test, number
from esper.spread import Spread, spread
from esper.weatherlight import client
from streams.settings import Settings

ARMS: Final = ("grown", "control", "static")


def seeds_command(request: RunRequest) -> int:
    """Train them and print one table, or with --json one object; RUN_FAILED where a run of them failed.

    The log and its workers stay up between the runs, and none knows what came of the ones before: they are the same run
    but for the random seed. Raises as `run_command` does.
    """
    check_names(request)
    if request.in_process:
        raise InvalidInput("--seeds trains run after run, and --in-process is for one; leave one of them out")
    grown, _ = request.configs()
    request = replace(request, dossier=grown.dossier)
    settings = Settings.load(data=request.data_dir)
    summaries: list[Summary] = []
    with client.launched(request.data_dir, settings.brokers) as starter:
        lease = client.join(request.data_dir, client="esper run --seeds", brokers=settings.brokers, starter=starter)
        with lease:
            for seed in request.seeds:
                if not request.as_json:
                    say(styled(f"seed {seed}", BOLD))
                summary = trained(replace(request, seed=seed, seeds=()))
                if summary is not None:
                    summaries.append(summary)
    told = Seeds(summaries, request.seeds)
    say_json(told.to_json()) if request.as_json else say(told.text())
    return 0 if len(summaries) == len(request.seeds) else RUN_FAILED


@dataclass(frozen=True, slots=True)
class Seeds:
    """The summaries of the runs that completed, and the random seeds that were asked for."""

    summaries: Sequence[Summary]
    asked: Sequence[int]

    @property
    def main(self) -> Figure | None:
        """The main metric; None where no run completed."""
        return self.summaries[0].main if self.summaries else None

    def to_json(self) -> dict[str, Any]:
        """The one object of `esper run --seeds --json`; `runs` are the objects of the single runs."""
        over, control = self.gain("static"), self.gain("control")
        return {
            "seeds": list(self.asked),
            "completed": [summary.seed for summary in self.summaries],
            "metric": None if self.main is None else self.main.metric_dict(),
            "test_metric": {arm: _spread_json(self.values(arm)) for arm in ARMS},
            "gain_over_control": None if control is None else _gain_json(control),
            "gain_over_static": None if over is None else _gain_json(over),
            "growth": self.growth,
            "runs": [summary.to_json() for summary in self.summaries],
        }

    def text(self) -> str:
        """The same for a person."""
        return "\n".join(self._lines())

    def values(self, arm: str) -> list[float]:
        """The main metric on the test set of each run of an arm that completed."""
        return [figure.value for summary in self.summaries if (figure := _figure(summary, arm)) is not None]

    def gain(self, over: str) -> Spread | None:
        """How much better the grown runs are than those of another arm, seed by seed; None where there are none."""
        pairs = [(summary.main, _figure(summary, over)) for summary in self.summaries]
        return spread([grown.gain_over(other.value) for grown, other in pairs if other is not None])

    @property
    def growth(self) -> str | None:
        """`paid`, `did not pay` or `within noise`: against static nets of as many FLOPs, else against the controls."""
        gain = self.gain("static") or self.gain("control")
        if gain is None or gain.half is None:
            return None
        if gain.holds_zero:
            return "within noise"
        return "paid" if gain.mean > 0 else "did not pay"

    def _lines(self) -> Iterator[str]:
        missing = [seed for seed in self.asked if seed not in [summary.seed for summary in self.summaries]]
        if self.main is None:
            yield "no run completed, so there is nothing to compare"
            return
        arms = [arm for arm in ARMS if self.values(arm)]
        yield ""
        yield styled(one_line(f"{len(self.summaries)} random seeds: test {self.main.label}"), BOLD)
        yield ""
        yield table(("seed", *arms, "run"), [*self._rows(arms), *self._means(arms)], right=range(1, len(arms) + 1))
        yield ""
        yield from self._verdict()
        if missing:
            yield f"seeds {', '.join(map(str, missing))} did not complete and are left out"

    def _rows(self, arms: Sequence[str]) -> Iterator[tuple[str, ...]]:
        for summary in self.summaries:
            figures = [_figure(summary, arm) for arm in arms]
            told = ["-" if figure is None else figure.bare for figure in figures]
            yield (str(summary.seed), *told, summary.grown.run_id)

    def _means(self, arms: Sequence[str]) -> Iterator[tuple[str, ...]]:
        assert self.main is not None
        unit = self.main.unit
        yield ("mean", *(plus_minus(spread(self.values(arm)), lambda value: number(value, unit)) for arm in arms), "")
        for name, of in _COSTS.items():
            ends = [[_end(summary, arm) for summary in self.summaries] for arm in arms]
            told = [spread([float(of(end)) for end in each if end is not None]) for each in ends]
            yield (name, *("-" if each is None else f"{each.mean:,.3g}" for each in told), "")

    def _verdict(self) -> Iterator[str]:
        assert self.main is not None
        unit = self.main.unit
        for over, what in (("control", "the control runs"), ("static", "static nets of as many FLOPs")):
            gain = self.gain(over)
            if gain is not None:
                sign = "+" if gain.mean >= 0 else "-"
                size = plus_minus(replace(gain, mean=abs(gain.mean)), lambda value: number(value, unit))
                in_points = difference_text(0.0, unit).partition(" ")[2]
                word = "within noise" if gain.holds_zero else "better" if gain.mean > 0 else "worse"
                word = word if gain.half is not None else "of one seed, which says nothing about noise"
                yield one_line(f"gain over {what}: {sign}{size} {in_points}".rstrip() + f" (n = {gain.count}): {word}")
        growth = self.growth
        if growth is not None:
            against = "static nets of as many FLOPs" if self.gain("static") else "the control runs"
            said = {
                "paid": styled("growth paid", GREEN),
                "did not pay": styled("growth did not pay", RED),
                "within noise": "growth made no difference beyond noise",
            }
            yield f"{said[growth]}, by the test {self.main.name}, against {against}"


def plus_minus(told: Spread | None, form: Callable[[float], str]) -> str:
    """A mean with half its 95 % interval: `96.91 ± 0.42`."""
    if told is None:
        return "-"
    return form(told.mean) if told.half is None else f"{form(told.mean)} \N{PLUS-MINUS SIGN} {form(told.half)}"


_COSTS: Final[dict[str, Callable[[Any], float]]] = {
    "parameters": lambda end: end.params_final,
    "FLOPs": lambda end: end.flops,
}


def _end(summary: Summary, arm: str) -> Any:
    """How the run of an arm ended; None where there was none that completed."""
    view = getattr(summary, arm)
    end = None if view is None else view.finished
    return end if end is not None and end.status == "completed" else None


def _figure(summary: Summary, arm: str) -> Figure | None:
    """The summary's main metric at the end of the run of an arm."""
    end = _end(summary, arm)
    found = [] if end is None else [each for each in figures_of_test(end) if each.is_like(summary.main)]
    return found[0] if found and found[0].known else None


def _spread_json(values: Sequence[float]) -> dict[str, Any] | None:
    told = spread(values)
    return None if told is None else {**_gain_json(told), "values": list(values)}


def _gain_json(told: Spread) -> dict[str, Any]:
    return {"mean": told.mean, "half_of_95": told.half, "n": told.count}
