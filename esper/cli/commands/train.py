"""What is trained: a run, one that goes on, one that leaves another."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from esper.cli.options import DATA_DIR, AsJson, DataDir, Run

app = typer.Typer()


@app.command(epilog="Example: esper run --task digits --epochs 12 --seed 3 --policy heuristic")
def run(  # noqa: PLR0917 - one parameter for each option of the command line
    task: Annotated[
        str,
        typer.Option("--task", help="digits, chars, spirals, cifar10:FOLDER, or your own: path/to/file.py:function."),
    ] = "digits",
    epochs: Annotated[int | None, typer.Option("--epochs", help="How many; the task's own number by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is random in the run.")] = 0,
    policy: Annotated[
        Literal["heuristic", "random", "none"], typer.Option("--policy", help="How Tamiyo decides; none never grows.")
    ] = "heuristic",
    lifecycle: Annotated[
        Literal["full", "direct"],
        typer.Option("--lifecycle", help="direct inserts a seed at once, untrained and ungated, for comparison."),
    ] = "full",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            metavar="POOL,...",
            help="What may grow: default, safe, or ids such as BP009,BP013; experimental ones must be approved.",
        ),
    ] = "default",
    drill: Annotated[
        str,
        typer.Option(
            "--drill",
            metavar="ID,...",
            help="A quarantine drill: these approved stressors (BP043 to BP050) germinate at the start.",
        ),
    ] = "",
    data_dir: DataDir = DATA_DIR,
    *,
    compiled_kernels: Annotated[
        bool,
        typer.Option(
            "--compiled-kernels",
            help="Let compiled kernels that are faster replace eager ones; the last bits then depend on when.",
        ),
    ] = False,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Train the same without growth beside it, to compare with.")
    ] = True,
    ignore_history: Annotated[
        bool, typer.Option("--ignore-history", help="Choose as if no run of the data folder had been before.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Train a task with growth, and the same without beside it; needs no other process, no network and no GPU.

    With --json the last line of stdout is one JSON object, and the progress goes to stderr.
    """
    from esper.cli.run import RunRequest, run_command  # noqa: PLC0415

    request = RunRequest(
        data_dir=data_dir,
        task=task,
        epochs=epochs,
        seed=seed,
        policy=policy,
        lifecycle=lifecycle,
        device=device,
        pool=_ids(pool),
        drill=_ids(drill),
        compiled_kernels=compiled_kernels,
        control=control,
        ignore_history=ignore_history,
        as_json=as_json,
    )
    return run_command(request)


def _ids(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


@app.command(epilog="Example: esper resume last")
def resume(run: Run, data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> int:
    """Go on with a run that was interrupted or whose trainer died, and with its control run if that was not over.

    It claims the run, lives it again from its last checkpoint to the end of its record, and trains on from there.
    """
    from esper.cli.resume import resume_command  # noqa: PLC0415

    return resume_command(data_dir, run, as_json=as_json)


@app.command(epilog='Example: esper fork last --at 240 --do "cull s2"')
def fork(
    run: Run,
    at: Annotated[
        int, typer.Option("--at", min=0, metavar="STEP", help="Before which optimiser step it leaves the run.")
    ],
    do: Annotated[
        str,
        typer.Option(
            "--do",
            metavar="CHANGE",
            help='"cull s2", "fossilize s2", "germinate s1 BP013", "policy random" or "nothing".',
        ),
    ],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """What if: a new run that is RUN up to a step, and from there does one thing otherwise.

    At an epoch's end the change takes the place of that epoch's decision, in the middle of one it comes before the next
    step. All later decisions are its own: Tamiyo makes them anew, with the same random draws. `nothing` changes
    nothing: the fork ends bit for bit as its parent, unless a person's commands, late decisions or faults came after
    the step, which are the parent's alone.
    """
    from esper.cli.fork import fork_command  # noqa: PLC0415

    return fork_command(data_dir, run, at, do, as_json=as_json)


@app.command(epilog="Example: esper replay last --from 200 --to 400")
def replay(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    from_step: Annotated[
        int,
        typer.Option("--from", min=0, metavar="STEP", help="Begin at the nearest checkpoint kept before this step."),
    ] = 0,
    to_step: Annotated[
        int | None, typer.Option("--to", min=0, metavar="STEP", help="End at this step of the surviving timeline.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Train a run again from its record and compare every digest and decision; 1 where one differs.

    What was decided and measured then is applied as recorded. Nothing is written, and nothing needs to be running.
    """
    from esper.cli.replay import replay_command  # noqa: PLC0415

    return replay_command(data_dir, run, from_step, to_step, as_json=as_json)
