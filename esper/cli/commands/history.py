"""The commands that ask what was recorded, `esper replay` to `sql`: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.commands.options import DATA_DIR, Archive, AsJson, DataDir, Run, Trust

history_app = typer.Typer()


@history_app.command(epilog="Example: esper replay last --from 200 --to 400")
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


@history_app.command(epilog="Example: esper runs --status failed --since 7d")
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


@history_app.command(
    epilog="Example: esper sites train.py --epochs 3", context_settings={"ignore_unknown_options": True}
)
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


@history_app.command(epilog="Example: esper events last --type seed_transitioned --follow")
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


@history_app.command(epilog="Example: esper why last s1")
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


@history_app.command(epilog="Example: esper state last --at epoch:7 --load weights.safetensors")
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


@history_app.command(epilog="Example: esper load last --out net.safetensors")
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


@history_app.command(epilog="Example: esper diff k3f9 last")
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


@history_app.command(
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
