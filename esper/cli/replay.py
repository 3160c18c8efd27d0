"""`esper replay`: train a run again from its record alone, and say whether it comes to the same, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.cli import RUN_FAILED
from esper.cli.history import find_run, history_of
from esper.cli.output import BOLD, DIM, GREEN, RED, complain, say, say_json, styled
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.record import Recorded
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from streams.objects import object_store

if TYPE_CHECKING:
    from esper.tolaria.divergence import Divergence
    from esper.tolaria.replay import Replayed
    from esper.tolaria.train import Trainable
    from projections.history import History

REDRAWN_S: Final = 0.1


def recorded_run(history: History, run_id: str) -> Recorded:
    """All that the archive knows of a run, its ancestors' part and the earlier runs of its script included."""
    from projections.lineage import facts, requests  # noqa: PLC0415 - DuckDB, and only where it is needed

    return Recorded.whole(run_id, lambda each: Recorded.of(each, facts(history, each), requests(history, each)))


def replay_command(
    data_dir: Path, word: str, from_step: int, to_step: int | None, *, trust: bool, as_json: bool
) -> int:
    """Replay a run and print the verdict; 0 where all agrees, 1 where something does not."""
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        recorded = recorded_run(history, run_id)
        check_code(history, run_id, data_dir, "replay", trust=trust)
    reached = recorded.state.model.step
    if from_step > reached or (to_step is not None and not from_step <= to_step <= reached):
        asked = f"--from {from_step}" if to_step is None else f"--from {from_step} --to {to_step}"
        raise InvalidInput(f"run {recorded.run_id} has the steps 0 to {reached}; {asked} is no part of it")
    objects = object_store(data_dir)
    if not as_json:
        say(styled("preparing the run's task", DIM))
    import torch  # noqa: PLC0415 - takes two seconds

    from esper.tolaria.machine import differences, unrecorded  # noqa: PLC0415
    from esper.tolaria.new_run import find_device  # noqa: PLC0415
    from esper.tolaria.replay import replay_run  # noqa: PLC0415
    from esper.tolaria.train import trained_in  # noqa: PLC0415
    from esper.weatherlight.ranks import beside  # noqa: PLC0415

    config = RunConfig.from_json(recorded.root.config_json)
    find_device(config.device)
    task = trained_in(recorded, objects, beside)
    torch.set_num_threads(config.threads)
    different = list(differences(recorded.facts, task.fingerprint()))
    for difference in different:
        complain(f"this is not where run {recorded.run_id} was trained: {difference}; its bits may differ")
    with _shown(recorded, to_step, quiet=as_json) as watch:
        replayed = replay_run(
            recorded,
            task,
            objects=objects,
            clock=Clock(time.monotonic, time.time_ns),
            from_step=from_step,
            to_step=to_step,
            watch=watch,
            before=lambda part: trained_in(part, objects, beside),
        )
    live = _live_steps_per_s(recorded)
    if replayed.diverged is not None and (unknown := unrecorded(recorded.facts)):
        different.append(unknown)
    why = [] if replayed.diverged is None else list(reasons_of(task, replayed.diverged))
    if as_json:
        speeds = {"steps_per_s": _speed(replayed), "live_steps_per_s": live}
        say_json({"run_id": recorded.run_id, **replayed.to_dict(), **speeds, "differences": different, "reasons": why})
    else:
        told = verdict(recorded.run_id, replayed, live, different)
        say("\n".join([*told, *(f"it may be that {each}" for each in why)]))
    return RUN_FAILED if replayed.diverged else 0


def reasons_of(task: Trainable, diverged: Divergence) -> Iterator[str]:
    """Why a script that was run again may not have come to its record, in one line each; nothing for a task."""
    from esper.tolaria.script_again import RecordedScript  # noqa: PLC0415 - torch, as above

    if not isinstance(task, RecordedScript):
        return
    if diverged.place.step == 0:
        yield "nothing seeds its first weights: call torch.manual_seed before the model is made"
    yield from dict.fromkeys(task.reasons)


def _speed(replayed: Replayed) -> float:
    return round(replayed.steps / max(replayed.wall_s, 1e-9), 1)


def _live_steps_per_s(recorded: Recorded) -> float:
    """How fast the run was when it was live, from its first fact to its last epoch; pauses of a resumed run count."""
    epochs = [fact for fact in recorded.facts if fact.HasField("epoch_completed")]
    if not epochs:
        return 0.0
    took_s = (epochs[-1].recorded_at_ns - recorded.facts[0].recorded_at_ns) / 1e9
    return round(recorded.root.steps_per_epoch * len(epochs) / max(took_s, 1e-9), 1)


def verdict(run_id: str, replayed: Replayed, live: float, different: Sequence[str]) -> Iterator[str]:
    """What a replay came to, line by line; how this machine is `different` is said before that the bits are."""
    stretch = f"steps {replayed.from_step} to {replayed.step}"
    if replayed.diverged is None:
        yield styled(f"run {run_id} replays bit for bit, {stretch}", BOLD, GREEN)
    else:
        for difference in different:
            yield f"this is another machine, or may be: {difference}"
        comes = "comes to other bits here" if different else "diverges"
        yield styled(f"run {run_id} {comes} at {replayed.diverged}", BOLD, RED)
        for name in replayed.diverged.tensors[:10]:
            yield f"  {name}"
        if len(replayed.diverged.tensors) > 10:
            yield f"  and {len(replayed.diverged.tensors) - 10} more"
    yield (
        f"{replayed.digests_checked:,} digests, {replayed.decisions_checked:,} decisions and {replayed.facts:,} facts "
        f"{'agree' if replayed.diverged is None else 'were compared up to there'}"
    )
    if replayed.decisions_of_another_policy:
        yield (
            f"{replayed.decisions_of_another_policy:,} decisions are of a policy that this Esper does not have: only "
            "the choice was made again, from mask, logits and draw"
        )
    speed = f"{_speed(replayed):,.0f} steps/s, live it was {live:,.0f}"
    yield f"{replayed.steps:,} steps in {replayed.wall_s:.1f} s: {speed}"


@contextmanager
def _shown(recorded: Recorded, to_step: int | None, *, quiet: bool) -> Iterator[Callable[[Replayed], None]]:
    """A bar on a terminal, on stderr so that stdout is for the verdict; nothing elsewhere."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        end = recorded.state.model.step if to_step is None else to_step
        shown = bar.add_task(f"replaying {recorded.run_id}", total=end, what="")
        last = 0.0

        def watch(replayed: Replayed) -> None:
            nonlocal last
            if replayed.wall_s - last >= REDRAWN_S:
                last = replayed.wall_s
                agree = f"{replayed.digests_checked} digests agree, {_speed(replayed):,.0f} steps/s"
                bar.update(shown, completed=replayed.step, what=f"step {replayed.step}, {agree}")

        yield watch
