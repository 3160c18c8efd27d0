"""`esper run`, `resume`, `fork`, `tell` and `static`: their arguments, options and help."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from esper.cli.commands.options import DATA_DIR, AsJson, DataDir, Run, Trust, random_seeds

training_app = typer.Typer()


@training_app.command(epilog="Example: esper run --task digits --epochs 12 --seed 3 --policy heuristic")
def run(  # noqa: PLR0917 - one parameter for each option of the command line
    task: Annotated[
        str,
        typer.Option(
            "--task", help="Such as digits, chars or spirals; cifar10:FOLDER; or your own: path/to/file.py:function."
        ),
    ] = "digits",
    epochs: Annotated[int | None, typer.Option("--epochs", help="How many; the task's own number by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is random in the run.")] = 0,
    seeds: Annotated[
        str,
        typer.Option(
            "--seeds",
            metavar="FIRST..LAST",
            help="The same run for each random seed, such as 0..4 or 0,3,7, and one table with \u00b1 over them.",
        ),
    ] = "",
    lr: Annotated[float | None, typer.Option("--lr", help="The learning rate; the task's own by default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Samples in a step; the task's own number by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Of torch; 1 by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the run, such as seeds.blend_epochs=2, as often as wanted; `--set help` lists "
            "them.",
        ),
    ] = None,
    policy: Annotated[
        Literal["heuristic", "random", "explore", "none", "learned"],
        typer.Option(
            "--policy",
            help="How Tamiyo decides; none never grows, explore tries everything, learned asks the promoted policy.",
        ),
    ] = "heuristic",
    lifecycle: Annotated[
        Literal["careful", "swift", "direct", "full"] | None,
        typer.Option(
            "--lifecycle",
            help="careful, the default, trains a seed beside the host, blends it in, and culls it where a gate fails; "
            "swift inserts it at once and undoes it where it does not prove itself; direct inserts it for good, for "
            "comparison. full is careful's old name.",
        ),
    ] = None,
    rate_policy: Annotated[
        Literal["constant", "cosine", "warmup", "wsd"] | None,
        typer.Option(
            "--rate-policy",
            help="How the learning rate moves, in the control run too: cosine by default; wsd warms up, stays, and "
            "falls linearly in the last fifth.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            metavar="POOL,...",
            help="What may grow: default, safe, or ids or names such as BP009,layer_norm_basic; experimental ones "
            "must be approved.",
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
    static: Annotated[
        bool | None,
        typer.Option(
            "--static/--no-static",
            help="Afterwards train what grew from its first step, for as many FLOPs: did growth pay? By default for "
            "built-in tasks that have a control run.",
            show_default=False,
        ),
    ] = None,
    ignore_history: Annotated[
        bool,
        typer.Option(
            "--ignore-history",
            help="Choose as if no seed of the data folder had grown before; approvals count all the same.",
        ),
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="Train in this process, alone, with the terminal free: for breakpoint(), print() and a debugger in "
            "your own model.",
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Also write a trace of the grown run for ui.perfetto.dev: Esper's spans, seeds, torch's operators.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Train a task with growth, and the same without beside it. Needs nothing running, no network and no GPU.

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
        rate_policy=rate_policy,
        device=device,
        pool=_ids(pool),
        drill=_ids(drill),
        compiled_kernels=compiled_kernels,
        control=control,
        static=static,
        ignore_history=ignore_history,
        in_process=in_process,
        profile=profile,
        as_json=as_json,
        seeds=random_seeds(seeds),
        settings=(*_given(learning_rate=lr, batch_size=batch_size, threads=threads), *(settings or ())),
    )
    return run_command(request)


def _given(**options: float | None) -> list[str]:
    """Options that are given, as `--set` has them."""
    return [f"{name}={value}" for name, value in options.items() if value is not None]


def _ids(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


@training_app.command(epilog="Example: esper resume last")
def resume(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    with_my_file: Annotated[
        bool,
        typer.Option("--with-my-file", help="Go on with your script or task as the file is now, not as recorded."),
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Go on with a run that was interrupted, failed or died, and with its control run if that was not over.

    It claims the run, trains it again from its last checkpoint to the end of its record, and goes on from there. What
    was recorded is run; after you have mended what it failed over, `--with-my-file` runs the file as it is now.
    """
    from esper.cli.local import is_local, resume_locally  # noqa: PLC0415
    from esper.cli.resume import resume_command  # noqa: PLC0415

    if is_local(data_dir, run):
        return resume_locally(data_dir, run, trust=trust, with_my_file=with_my_file, as_json=as_json)
    return resume_command(data_dir, run, trust=trust, with_my_file=with_my_file, as_json=as_json)


@training_app.command(epilog='Example: esper fork last --at 240 --do "cull s2"')
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
            help='"cull s2", "fossilize s2", "germinate s1 residual_block", "policy random" or "nothing".',
        ),
    ],
    data_dir: DataDir = DATA_DIR,
    *,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """What if: a new run that is RUN up to a step, and from there does one thing otherwise.

    At an epoch's end the change takes the place of that epoch's decision, in the middle of one it comes before the next
    step. All later decisions are its own: Tamiyo makes them anew, with the same random draws. `nothing` changes
    nothing: the fork ends bit for bit as its parent, unless a person's commands, late decisions or faults came after
    the step, which are the parent's alone.
    """
    from esper.cli.resume import fork_command  # noqa: PLC0415

    return fork_command(data_dir, run, at, do, trust=trust, as_json=as_json)


@training_app.command(epilog='Example: esper tell last "cull s1"')
def tell(
    run: Run,
    what: Annotated[
        list[str],
        typer.Argument(
            help='"cull s1", "fossilize s1", "hold s1", "advance s1", "germinate s1 residual_block", "rate 0.5", '
            '"rollback", "pause" or "resume".',
            metavar="WHAT...",
        ),
    ],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """Tell a run that trains now what to do, and see what became of it; 1 where it is refused.

    It is signed, recorded, and takes effect between two optimiser steps: before the next one, or while the run is
    paused. `pause` stops the trainer until `resume`; `rate 0.5` makes every learning rate half of what it would be, and
    `rate 1` puts it back; a seed that is held stays in its stage until it is advanced; one that is advanced meets its
    gate at the end of the epoch. Replays, resumes and forks repeat it.
    """
    from esper.cli.tell import tell_command  # noqa: PLC0415

    return tell_command(data_dir, run, " ".join(what), as_json=as_json)


@training_app.command(epilog="Example: esper static last --seeds 0..4")
def static(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    seeds: Annotated[
        str,
        typer.Option(
            "--seeds",
            metavar="FIRST..LAST",
            help="Run the script anew for each random seed, such as 0..4 or 0,3,7, which it gets as its argument "
            "--seed, each with a static net; one table with \u00b1 over them.",
        ),
    ] = "",
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Train what grew in a run from its first step, for as many FLOPs, and print both beside each other.

    The fair comparison: whoever doubts growth would do just that. A script is run again as it is recorded, with the
    grown structure in its network from the first step, for as many epochs as the budget has room for; its
    learning-rate schedule is drawn out or pressed to those. Where there is such a run already, both are told.
    """
    from esper.cli.static_run import static_command  # noqa: PLC0415

    return static_command(data_dir, run, seeds=random_seeds(seeds), trust=trust, as_json=as_json)
