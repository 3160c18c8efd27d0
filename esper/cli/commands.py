"""The single commands of `esper`: their arguments, options and help, in the order of their groups.

The work is in a module that is imported when its command is called, so that a mistake in a name is answered at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from esper.errors import InvalidInput


def _data_folder(value: Path) -> Path:
    """`~` is the home folder, also where no shell made it that."""
    try:
        return value.expanduser()
    except RuntimeError:
        raise InvalidInput(f"there is no home folder for {value}; name the data folder in full") from None


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="ESPER_DATA",
        help="The data folder: log, archive and objects.",
        show_default=True,
        callback=_data_folder,
    ),
]
Run = Annotated[str, typer.Argument(help="A run id, the beginning of one, or `last`.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Archive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        help="An archive elsewhere instead: a folder, or an address that fsspec knows, such as s3://bucket/esper.",
        metavar="ADDRESS",
        show_default=False,
    ),
]
DATA_DIR: Final = Path("esper-data")
MOST_SEEDS: Final = 1000
app = typer.Typer()


class Group(TyperGroup):
    """Commands, listed in the help each with its whole first sentence: click would cut it to fit into one line."""

    def format_commands(self, context: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the list of commands into `formatter`."""
        for command in self.commands.values():
            command.short_help = " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        super().format_commands(context, formatter)


Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that came with a run which was not recorded with your key, unasked.")
]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The broker's port on 127.0.0.1; 0 takes a free one.")
]

Anonymous = Annotated[
    bool,
    typer.Option("--anonymous", help="Let in Kafka clients without the log's secret, those of other users here, too."),
]


@app.command(epilog="Example: esper run --task digits --epochs 12 --seed 3 --policy heuristic")
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


def random_seeds(text: str) -> tuple[int, ...]:
    """The random seeds that `0..4` or `0,3,7` means."""
    first, dots, last = text.partition("..")
    words = [first, last] if dots else [word for word in text.split(",") if word.strip()]
    if not all(word.strip().isdecimal() for word in words):
        raise InvalidInput(f"--seeds {text!r} is no FIRST..LAST, such as 0..4, and no list, such as 0,3,7")
    numbers = [int(word) for word in words]
    seeds = tuple(range(numbers[0], numbers[1] + 1)) if dots else tuple(dict.fromkeys(numbers))
    if dots and not 1 < len(seeds) <= MOST_SEEDS:
        raise InvalidInput(f"--seeds {text!r} are {len(seeds)} random seeds; give 2 to {MOST_SEEDS}")
    return seeds


def _ids(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


@app.command(epilog="Example: esper resume last")
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


@app.command(epilog='Example: esper tell last "cull s1"')
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


@app.command(epilog="Example: esper static last --seeds 0..4")
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


@app.command(epilog="Example: esper submit digits --seeds 0..19 --set epochs=12 --wait")
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


@app.command(epilog="Example: esper work --slots 2")
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


@app.command(epilog="Example: esper withdraw 3fk20qzv")
def withdraw(
    words: Annotated[list[str], typer.Argument(help="Runs or batches that were submitted.", metavar="RUN|BATCH...")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """Have nobody train runs that were submitted and are not over; one that is being trained is interrupted."""
    from esper.cli.fleet.submit import withdraw_command  # noqa: PLC0415

    return withdraw_command(data_dir, words, as_json=as_json)


@app.command(epilog="Example: esper replay last --from 200 --to 400")
def replay(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    from_step: Annotated[
        int,
        typer.Option(
            "--from", min=0, metavar="STEP", help="Begin at the nearest checkpoint kept at or before this step."
        ),
    ] = 0,
    to_step: Annotated[
        int | None, typer.Option("--to", min=0, metavar="STEP", help="End at this step of the surviving timeline.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Train a run again from its record and compare every digest and decision; 1 where one differs.

    What was decided and measured then is applied as recorded. Nothing is written, and nothing needs to be running.
    Where a run from somebody else brings code of its own, you are asked first.
    """
    from esper.cli.replay import replay_command  # noqa: PLC0415

    return replay_command(data_dir, run, from_step, to_step, trust=trust, as_json=as_json)


@app.command(epilog="Example: esper runs --status failed --since 7d")
def runs(
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="The newest so many (30 in the table, all as JSON); 0 is all.")
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="Those of this task alone.")] = "",
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Those that are this, as failed; repeatable.")
    ] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="Those that began since: 90min, 12h, 7d, or a date of UTC.")
    ] = "",
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Runs of the data folder, the latest first. Needs nothing running.

    Control and static runs come with the run that they stand beside, which the options choose.
    """
    from esper.cli.runs import runs_command, sought  # noqa: PLC0415

    runs_command(data_dir, sought(limit, task, status or (), since, as_json=as_json), as_json=as_json)


@app.command(epilog="Example: esper sites train.py --epochs 3", context_settings={"ignore_unknown_options": True})
def sites(
    file: Annotated[
        str,
        typer.Argument(
            help="A training script, or a task: path/to/file.py:function, or a built-in one.", metavar="FILE"
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What the script is called with.", metavar="[ARGUMENTS]...")
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also layers that cannot be sites, each with the reason.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Where a model could grow, and what: its layers with their shapes, after one forward pass of its first batch.

    A script is run as `python FILE` does, up to the first batch that its model gets. Nothing is trained or written.
    """
    from esper.cli.sites import sites_command  # noqa: PLC0415

    sites_command(file, arguments or [], everything=everything, as_json=as_json)


@app.command(epilog="Example: esper events last --type seed_transitioned --follow")
def events(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type; may be given several times.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go on with new events until the run has finished; a run that begins now is waited for."
        ),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also what the library says of kernels, which only --type and --json show else."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The events of a run in their order; with --json one object a line. Needs nothing running."""
    from esper.cli.events import events_command  # noqa: PLC0415

    events_command(data_dir, run, types or [], follow=follow, everything=everything, as_json=as_json)


@app.command(epilog="Example: esper why last s1")
def why(
    run: Run,
    seed: Annotated[str, typer.Argument(help="A seed, such as s1.", metavar="SEED")],
    data_dir: DataDir = DATA_DIR,
    *,
    with_void: Annotated[
        bool, typer.Option("--void", help="Also what a rollback or a resume cut, marked as such.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Why a seed did what it did: packet, decision, command, what came of it, and the report.

    Life by life, with the seconds since the run began and since the cause of each event. Needs nothing running.
    """
    from esper.cli.why import why_command  # noqa: PLC0415

    why_command(data_dir, run, seed, with_void=with_void, as_json=as_json)


@app.command(epilog="Example: esper state last --at epoch:7 --load weights.safetensors")
def state(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    at: Annotated[
        str | None, typer.Option("--at", help="A step, such as 120, or an epoch, such as epoch:7; now by default.")
    ] = None,
    load: Annotated[
        Path | None, typer.Option("--load", help="Write the weights at that point to this safetensors file.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """A run as it was at a step or after an epoch: its seeds, decision, rates, mode, checkpoint. Needs nothing running.

    What was rolled back is left out: a step means the surviving timeline, and is shown after all that happened at it.
    Figures such as alpha are as last recorded, at the end of an epoch or at a seed's move.
    """
    from esper.cli.state import state_command  # noqa: PLC0415

    state_command(data_dir, run, at, load, trust=trust, as_json=as_json)


@app.command(epilog="Example: esper load last --out net.safetensors")
def load(
    run: Run,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="The file to write: .safetensors (weights), .py (code), .pt2 (torch.export) or .onnx."
        ),
    ],
    data_dir: DataDir = DATA_DIR,
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", help="A step (120), the end of an epoch (epoch:7), or best; the end without it."),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """A run's network as a file that needs no Esper: its weights, its code, or a program to run.

    Beside weights a file of the same name that ends with .json says what they are and what grew where.
    """
    from esper.cli.load import load_command  # noqa: PLC0415

    load_command(data_dir, run, at, out, trust=trust, as_json=as_json)


@app.command(epilog="Example: esper diff k3f9 last")
def diff(
    a: Annotated[str, typer.Argument(help="A run.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The run to compare it with.", metavar="B")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """Where two histories part, side by side, and what it changed in the end; 0 where they are the same, 1 where not.

    Facts and decisions are compared by what they say, not by their ids or times. A fork and its parent share what came
    before it. Needs nothing running.
    """
    from esper.cli.diff import diff_command  # noqa: PLC0415

    return diff_command(data_dir, a, b, as_json=as_json)


@app.command(
    epilog="Example: esper sql \"select epoch, probe_loss from epochs where run_id = 'k3f9x2qa' order by epoch\""
)
def sql(
    query: Annotated[
        str | None, typer.Argument(help="A query in DuckDB's SQL over the views of the history.", metavar="[QUERY]")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    archive: Archive = None,
    *,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="TOOL:PLACE",
            help="Also runs of another tool, as foreign_runs and foreign_metrics: tensorboard:FOLDER or mlflow:PLACE.",
        ),
    ] = None,
    show_schema: Annotated[
        bool, typer.Option("--schema", help="Show the views; with a view's name in the query's place, its columns.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Ask the small history that Esper carries, to try a question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the history in SQL: views such as runs, epochs, decisions, transitions, gates, seeds and reports.

    Without a query it is a shell where you sit at a terminal, and else the query is read from stdin. `esper sql
    --schema` lists the views and `esper sql --schema epochs` says what a view's columns mean. Needs nothing running.
    """
    from esper.cli.sql import sql_command  # noqa: PLC0415

    sql_command(
        data_dir, query, archive=archive, beside=beside or (), sample=sample, show_schema=show_schema, as_json=as_json
    )


@app.command(epilog="Example: esper report last --to run.html")
def report(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The file to write; esper-report-RUN.html by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A run as one web page that needs no network: curves beside the control run, seeds, decisions, gates, cost."""
    from esper.cli.archive import report_command  # noqa: PLC0415

    report_command(data_dir, run, to, as_json=as_json)


@app.command(epilog="Example: esper serve --open")
def serve(
    data_dir: DataDir = DATA_DIR,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The page's port; 0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="The address to bind; any other than loopback's is one that others reach.")
    ] = "127.0.0.1",
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mission control, until Ctrl-C: a page with all runs as they are and were, alerts, and buttons to tell them.

    It reads the archive in a process of its own: no run waits for it, and it needs no other one. The address that is
    printed holds the token that lets a page act; ESPER_SERVE_TOKEN is that token instead, where it is set, and --json
    never prints it.
    """
    from esper.cli.serve.command import serve_command  # noqa: PLC0415

    serve_command(data_dir, host=host, port=port, open_page=open_page, as_json=as_json)


@app.command(epilog="Example: esper export last --to for-ada --with-objects")
def export(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    form: Annotated[
        Literal["esper", "tensorboard", "mlflow", "wandb", "otlp", "elasticsearch"],
        typer.Option(
            "--as",
            help="Whose: Esper's own, or for another tool: TensorBoard, MLflow, W&B offline, an OpenTelemetry "
            "collector, or all events for Elasticsearch.",
        ),
    ] = "esper",
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PLACE",
            help="The folder to make, esper-export-RUN by default; for MLflow also its address, for OpenTelemetry "
            "and Elasticsearch http://HOST:PORT.",
            show_default=False,
        ),
    ] = None,
    with_objects: Annotated[
        bool, typer.Option("--with-objects", help="Also what a replay needs: checkpoints, digests, long observations.")
    ] = False,
    with_network: Annotated[
        bool, typer.Option("--with-network", help="Also the run's network: weights, what they are, and its code.")
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """A run's whole history as one folder without keys, that anybody can ask with plain DuckDB and verify.

    Its control run comes along, and the runs that it was forked from. Nothing is overwritten. With --as its figures,
    settings and what happened to its seeds go to another tool, each figure by its epoch or step.
    """
    if form != "esper":
        if with_objects or with_network:
            raise InvalidInput(f"--as {form} takes figures and notes; leave --with-objects and --with-network out")
        from esper.cli.interchange import export_as  # noqa: PLC0415

        export_as(data_dir, run, form, to, as_json=as_json)
        return
    from esper.cli.archive import export_command  # noqa: PLC0415

    folder = None if to is None else Path(to)
    export_command(
        data_dir, run, folder, with_objects=with_objects, with_network=with_network, trust=trust, as_json=as_json
    )


@app.command(epilog="Example: esper verify esper-export-k3f9x2qa")
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `esper export` made.", metavar="FOLDER")],
    *,
    as_json: AsJson = False,
) -> int:
    """Check that an exported folder holds what was exported: exit code 0 where it does, 1 where something differs."""
    from esper.cli.archive import verify_export_command  # noqa: PLC0415

    return verify_export_command(folder, as_json=as_json)


@app.command(epilog="Example: esper slo --json")
def slo(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """What is promised, and what is left of each error budget of 30 days. Needs nothing running.

    Of what the history knows; what Prometheus alone sees is in its rules. 1 where 40 % of a budget went in a day.
    """
    from esper.cli.slo import slo_command  # noqa: PLC0415

    return slo_command(data_dir, archive, as_json=as_json)


@app.command(epilog="Example: esper drill tamiyo-timeout broker-loss --window-scale 0.05")
def drill(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which, as `--list` names them; `all` for every one.", metavar="[NAME]..."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Where each drill gets a data folder of its own; otherwise a temporary place, kept where one fails.",
            callback=lambda value: None if value is None else _data_folder(value),
        ),
    ] = None,
    window_scale: Annotated[
        float,
        typer.Option("--window-scale", min=0.01, max=1.0, help="Alerts wait for so much of the time that they do."),
    ] = 1.0,
    broker_pid: Annotated[
        list[int] | None,
        typer.Option("--broker-pid", min=2, help="A process of the log at ESPER_BROKERS that drills may stop."),
    ] = None,
    *,
    listed: Annotated[bool, typer.Option("--list", help="Only say which drills there are.")] = False,
    as_json: AsJson = False,
) -> int:
    """Break a running Esper on purpose, in a folder of its own, and see whether the right alert reaches people.

    Each drill trains a run, stops or spoils something of it from outside, waits for the alert at a webhook, mends what
    it broke, and waits until the alert has cleared and the run has ended as it should; 1 where one does not.
    """
    from esper.cli.drills.play import drill_command, list_drills  # noqa: PLC0415

    if listed:
        list_drills(as_json=as_json)
        return 0
    return drill_command(names or (), folder, window_scale, broker_pid or (), as_json=as_json)


@app.command(epilog="Example: esper broker --port 9092")
def broker(
    data_dir: DataDir = DATA_DIR, port: Port = 0, *, anonymous: Anonymous = False, as_json: AsJson = False
) -> None:
    """Only the embedded Kafka-protocol broker, until Ctrl-C; runs on the same data folder join it."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=True, anonymous=anonymous, as_json=as_json)


@app.command(epilog="Example: esper up --port 9092")
def up(data_dir: DataDir = DATA_DIR, port: Port = 0, *, anonymous: Anonymous = False, as_json: AsJson = False) -> None:
    """Broker and workers that outlive a run, until Ctrl-C; runs on the same data folder join them."""
    from esper.cli.up import up_command  # noqa: PLC0415

    up_command(data_dir, port, broker_only=False, anonymous=anonymous, as_json=as_json)


@app.command(epilog="Example: esper doctor --json")
def doctor(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> int:
    """Check what Esper needs on this machine, and say what to do where something is missing."""
    from esper.cli.up import doctor_command  # noqa: PLC0415

    return doctor_command(data_dir, as_json=as_json)
