"""What `esper run` says at its end: how good, how big, what became of each seed and why, and what to try next."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esper.cli.output import BOLD, DIM, GREEN, RED, styled, table
from esper.cli.progress import Life, RunView


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, in seconds: until the grown run's first step, from its last step to the summary, in all.

    The first two are None for a run that made no step. `cpu_s` is processor time, of the command and of the processes
    that it started and that have ended, with what those started; of services that it found running it has nothing.
    """

    first_step_s: float | None
    prompt_s: float | None
    cpu_s: float
    wall_s: float

    @classmethod
    def until_now(cls, began_at: float, steps: tuple[float, float] | None) -> Cost:
        """The cost now; `began_at` and the times of the first and the last step are of the clock `time.monotonic`."""
        now = time.monotonic()
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(
            first_step_s=None if steps is None else steps[0] - began_at,
            prompt_s=None if steps is None else now - steps[1],
            cpu_s=sum(use.ru_utime + use.ru_stime for use in uses),
            wall_s=now - began_at,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """Both runs as the archive has them. `hook_ms` has p50 and p99; `control` is None where there was none."""

    grown: RunView
    control: RunView | None
    seed: int
    hook_ms: Mapping[str, float]
    cost: Cost
    data_dir: str

    def to_json(self) -> dict[str, Any]:
        """The one object of `esper run --json`. Accuracies are on the test set, from 0 to 1."""
        started, finished = self.grown.started, self.grown.finished
        return {
            "run_id": self.grown.run_id,
            "task": started.task,
            "seed": self.seed,
            "epochs": self.grown.epoch,
            "val_accuracy": finished.test_accuracy,
            "control_val_accuracy": self._control_end.test_accuracy if self._control_end is not None else None,
            "params_host": started.params_host,
            "params_final": finished.params_final,
            "seeds": {
                "germinated": finished.germinated,
                "fossilized": finished.fossilized,
                "culled": finished.culled,
            },
            "events": self.grown.events,
            "hook_ms": {"p50": round(self.hook_ms["p50"], 3), "p99": round(self.hook_ms["p99"], 3)},
            **{name: None if each is None else round(each, 3) for name, each in asdict(self.cost).items()},
        }

    def text(self) -> str:
        """The same for a person."""
        return "\n".join(self._lines())

    @property
    def _control_end(self) -> Any:
        """How the control run ended; None where there was none, or it is not over: half a run is nothing to compare."""
        end = self.control.finished if self.control is not None else None
        return end if end is not None and end.status == "completed" else None

    def _lines(self) -> Iterator[str]:
        grown = self.grown
        yield ""
        yield styled(f"run {grown.run_id}: {grown.started.task}, {grown.epoch} epochs, {self.cost.wall_s:.1f} s", BOLD)
        yield ""
        headers = ("", "grown", "control") if self._control_end is not None else ("", "grown")
        yield table(headers, self._figures(), right=(1, 2))
        if self.control is not None and self._control_end is None:
            over = self.control.finished is not None and self.control.finished.status == "failed"
            way = "" if over else f"; `esper resume {grown.run_id}` goes on with it"
            yield f"the control run did not complete, so it is left out{way}"
        yield ""
        yield styled("seeds", DIM)
        yield from self._seeds()
        yield ""
        control = f" and {self.control.events:,} of the control run" if self.control is not None else ""
        yield f"events written   {grown.events:,}{control}, all in the archive of {self.data_dir}"
        yield f"epoch hook       p50 {self.hook_ms['p50']:.1f} ms, p99 {self.hook_ms['p99']:.1f} ms"
        yield ""
        yield styled("try next", DIM)
        yield from (f"  {command}" for command in self._next())

    def _figures(self) -> Iterator[tuple[str, ...]]:
        views = [self.grown, *([self.control] if self.control is not None and self._control_end is not None else [])]
        ends = [view.finished for view in views]
        accuracies = [f"{end.test_accuracy:.4f}" for end in ends]
        yield ("test accuracy" + self._gain(), *accuracies)
        yield ("test loss", *(f"{end.test_loss:.4f}" for end in ends))
        yield ("parameters", *(f"{view.parameters:,}" for view in views))
        yield ("training FLOPs", *(f"{end.flops:.3g}" for end in ends))

    def _gain(self) -> str:
        """How many points growth won, coloured by its sign."""
        if self._control_end is None:
            return ""
        points = 100.0 * (self.grown.finished.test_accuracy - self._control_end.test_accuracy)
        return f" ({styled(f'{points:+.2f} points', GREEN if points >= 0 else RED)})"

    def _seeds(self) -> Iterator[str]:
        for life in self.grown.lives:
            yield f"  {describe_life(life)}"
        grew = {life.seed_id for life in self.grown.lives}
        for seed in self.grown.seeds.values():
            if seed.seed_id not in grew:
                yield f"  {seed.seed_id} at {seed.site} never germinated"

    def _next(self) -> Iterator[str]:
        run_id = self.grown.run_id
        if self.grown.lives:
            yield f"esper why {run_id} {self.grown.lives[0].seed_id}"
        yield f"esper events {run_id} --type decision_made"
        yield f"esper sql \"from epochs where run_id = '{run_id}' order by epoch\""
        yield "esper runs"


def describe_life(life: Life) -> str:
    """What became of a seed in one of its lives, and why."""
    which = f" (life {life.life})" if life.life > 1 else ""
    reason = f": {life.reason}" if life.reason else ""
    return (
        f"{life.seed_id}{which} at {life.site} grew {life.blueprint_id} with {life.parameters:,} parameters in epoch "
        f"{life.from_epoch} and is {life.stage} since epoch {life.to_epoch}{reason}"
    )
