"""What happened: the runs, their events, a seed's story, a run at a step, two runs side by side, any question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.options import DATA_DIR, Archive, AsJson, DataDir, Run

@app.command(epilog="Example: esper runs --json")
def runs(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """All runs of the data folder, the latest first. Needs nothing running."""
    from esper.cli.read import runs_command  # noqa: PLC0415

    runs_command(data_dir, as_json=as_json)


@app.command(epilog="Example: esper events last --type seed_transitioned --follow")
def events(
    run: Run,
    data_dir: DataDir = DATA_DIR,
    *,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type; may be given several times.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new events until the run has finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """The events of a run in their order; with --json one object a line. Needs nothing running."""
    from esper.cli.read import events_command  # noqa: PLC0415

    events_command(data_dir, run, types or [], follow=follow, as_json=as_json)


@app.command(epilog="Example: esper why last s1")
def why(
    run: Run,
    seed: Annotated[str, typer.Argument(help="A seed, such as s1.", metavar="SEED")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Why a seed did what it did: packet, decision, command, what came of it, the report and the policy learnt from it.

    Life by life, with the seconds since the run began and since the cause of each event. Needs nothing running.
    """
    from esper.cli.why import why_command  # noqa: PLC0415

    why_command(data_dir, run, seed, as_json=as_json)


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
    as_json: AsJson = False,
) -> None:
    """A run as it was at a step or after an epoch: its seeds, decision, rates, mode, checkpoint. Needs nothing running.

    What was rolled back is left out: a step means the surviving timeline, and is shown after all that happened at it.
    Figures such as alpha are as last recorded, at the end of an epoch or at a seed's move.
    """
    from esper.cli.state import state_command  # noqa: PLC0415

    state_command(data_dir, run, at, load, as_json=as_json)


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
    show_schema: Annotated[
        bool, typer.Option("--schema", help="Show the views; with a view's name in the query's place, its columns.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Ask the small history that Esper carries, to try a question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the history in SQL, over the views runs, epochs, decisions, commands, transitions, gates, seeds, reports, ...

    Without a query it is a shell where you sit at a terminal, and else the query is read from stdin. `esper sql
    --schema` lists the views and `esper sql --schema epochs` says what a view's columns mean. Needs nothing running.
    """
    from esper.cli.sql import sql_command  # noqa: PLC0415

    sql_command(data_dir, query, archive=archive, sample=sample, show_schema=show_schema, as_json=as_json)
