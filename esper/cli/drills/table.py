"""Every drill: what it breaks, which alert is to reach people, how the run is to end, and where the runbook has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from esper.cli import RUN_FAILED
from esper.cli.drills import breaks
from esper.cli.drills.scene import Failed, Scene

RUNBOOK: Final = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill.

    `alert` is the one that is to fire once and to clear; empty where none may. `run` are arguments of the run beside it
    and `code` is its exit code. `after` is what follows, and raises Failed where it does not come out. `outside` says
    why it cannot be had on a log that is not the folder's own, because what it breaks is nobody's here; with `pids` it
    can be where the brokers' processes are named.
    """

    name: str
    breaks: str
    alert: str
    how: Callable[[Scene], AbstractContextManager[None]]
    run: tuple[str, ...] = ()
    code: int = 0
    after: Callable[[Scene], None] | None = None
    outside: str = ""
    pids: bool = False

    @property
    def page(self) -> str:
        """Where the runbook tells of it."""
        return f"{RUNBOOK}#{self.alert or self.name}"


def _goes_on(scene: Scene) -> None:
    scene.mend()
    if scene.resume() != 0:
        raise Failed(f"after its cause was taken away the run did not come to its end: {scene.said}")


def _whole(scene: Scene) -> None:
    if scene.run("archive", "verify", "--json") != 0:
        raise Failed("`esper archive verify` finds fault with what two keys have signed")


QUIET: Final = ("--policy", "none")
SWIFT: Final = ("--policy", "none", "--lifecycle", "swift")

DRILLS: Final = (
    Drill("tamiyo-timeout", "the decider hangs for three decisions", "tamiyo_timeout", breaks.frozen_decider),
    Drill(
        "isolation",
        "a seed reaches parameters that are not its own",
        "kasmina_isolation_violation",
        breaks.leaking_seed,
        QUIET,
    ),
    Drill("nan-seed", "a seed gives NaN at one step", "emergency_signal", breaks.seed_without_numbers, SWIFT),
    Drill(
        "emergency",
        "the network gives NaN at every step: the run halts, and goes on once that is mended",
        "emergency_signal",
        breaks.host_without_numbers,
        QUIET,
        RUN_FAILED,
        _goes_on,
    ),
    Drill(
        "compile-escalation",
        "two attempts at a kernel are killed",
        "tezzeret_compile_retry_high",
        breaks.killed_compilers,
        QUIET,
    ),
    Drill(
        "broker-loss",
        "the log hangs",
        "log_down",
        breaks.frozen_log,
        outside="name its brokers' processes with --broker-pid",
        pids=True,
    ),
    Drill(
        "queue-depth",
        "the log gets a twentieth of its time while the load test writes",
        "oona_queue_depth",
        breaks.overloaded_log,
        QUIET,
        outside="name its brokers' processes with --broker-pid",
        pids=True,
    ),
    Drill(
        "disk-full",
        "the embedded log's disk takes nothing",
        "log_disk_full",
        breaks.full_disk,
        outside="its disk is not ours to fill",
    ),
    Drill("archive-lag", "the archiver hangs", "archive_lag", breaks.frozen_archiver),
    Drill("stale-key", "a command comes that a forgotten key has signed", "bad_signatures", breaks.stale_key, QUIET),
    Drill(
        "rotated-key",
        "the key is changed while a run is interrupted: nothing may be refused or lost",
        "",
        breaks.rotated_key,
        after=_whole,
    ),
)
BY_NAME: Final = {drill.name: drill for drill in DRILLS}
