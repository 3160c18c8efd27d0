"""`esper submit`, `work` and `withdraw`: runs that any machine of a log trains."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from esper.cli.commands.options import DATA_DIR, AsJson, DataDir, Trust, random_seeds

fleet_app = typer.Typer()


@fleet_app.command(epilog="Example: esper submit digits --seeds 0..19 --set epochs=12 --wait")
def submit(  # noqa: PLR0917 - one parameter for each option of the command line
    what: Annotated[
        str,
        typer.Argument(help="A task, as `esper run --task` has it, or a file of a sweep.", metavar="TASK|SWEEP.yaml"),
    ],
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="FIRST..LAST", help="A run for each random seed, such as 0..19 or 0,3,7."),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting of `esper run --set help`, as often as wanted; the same name again tries each value.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="How many; by default the task's own.")] = None,
    policy: Annotated[
        Literal["heuristic", "random", "none"] | None, typer.Option("--policy", help="How Tamiyo decides.")
    ] = None,
    lifecycle: Annotated[
        Literal["careful", "swift", "direct"] | None, typer.Option("--lifecycle", help="As of `esper run`.")
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            "--attempts", min=1, help="So many trainers of a run may die before it is given up; 5 by default."
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", help="Higher ones are taken first; 0 by default.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    *,
    control: Annotated[
        bool | None,
        typer.Option("--control/--no-control", help="Also the same run without growth.", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until all are over; 1 where one of them failed.")] = False,
    as_json: AsJson = False,
) -> int:
    """Ask for runs that any `esper work` on this log trains: one for each random seed, or those of a sweep.

    A sweep is a YAML file with task, seeds, epochs, policy, lifecycle, and under `set` settings with one value or a
    list of them; what is given here goes before what stands there. `esper runs` shows how far they are.
    """
    from esper.cli.fleet.submit import Submission, submit_command  # noqa: PLC0415
    from esper.cli.fleet.sweep import asked_for  # noqa: PLC0415

    sweep = asked_for(
        what,
        settings or (),
        seeds=random_seeds(seeds) or None,
        epochs=epochs,
        policy=policy,
        lifecycle=lifecycle,
        attempts=attempts,
        priority=priority,
        control=control,
    )
    return submit_command(Submission(data_dir, sweep, wait, as_json))


@fleet_app.command(epilog="Example: esper work --slots 2")
def work(
    slots: Annotated[int, typer.Option("--slots", min=1, max=256, help="How many runs are trained at a time.")] = 1,
    lease: Annotated[
        float,
        typer.Option(
            "--lease", min=1.0, metavar="SECONDS", help="So long others wait for this worker before they take its runs."
        ),
    ] = 30.0,
    data_dir: DataDir = DATA_DIR,
    *,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", "--once", help="End when all that was asked for is over.")
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Train runs that were asked for with `esper submit`, here or on any machine of this log, until Ctrl-C.

    As many may work as there are machines. A run whose worker dies or falls silent goes on at another one from its last
    checkpoint; on several machines with ESPER_BROKERS, ESPER_KEY and ESPER_OBJECTS_URL.
    """
    from esper.cli.fleet.work import Asking, work_command  # noqa: PLC0415

    return work_command(Asking(data_dir, slots, until_empty, lease, trust, as_json))


@fleet_app.command(epilog="Example: esper withdraw 3fk20qzv")
def withdraw(
    words: Annotated[list[str], typer.Argument(help="Runs or batches that were submitted.", metavar="RUN|BATCH...")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """Have nobody train runs that were submitted and are not over; one that is being trained is interrupted."""
    from esper.cli.fleet.submit import withdraw_command  # noqa: PLC0415

    return withdraw_command(data_dir, words, as_json=as_json)
