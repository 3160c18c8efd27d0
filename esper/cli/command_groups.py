"""The commands of `esper alerts`, `archive`, `blueprints` and `projections`: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from esper.cli.commands import DATA_DIR, Archive, AsJson, DataDir, Group

alerts_app = typer.Typer(
    cls=Group, help="Alerts: which are on, whom they reached; acknowledge, silence and send them again."
)
Channel = Literal["slack", "pagerduty", "email", "webhook"]
Person = Annotated[str, typer.Option("--by", envvar="USER", help="Who says so.", show_default="$USER")]


@alerts_app.command("list", epilog="Example: esper alerts list --active --json")
def list_alerts(
    data_dir: DataDir = DATA_DIR,
    archive: Archive = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest first.")] = 20,
    *,
    active: Annotated[bool, typer.Option("--active", help="Only those that are on.")] = False,
    as_json: AsJson = False,
) -> None:
    """The alerts that fired: over which run, when they cleared, whom they reached. Needs nothing running."""
    from esper.cli.alerts import list_command  # noqa: PLC0415

    list_command(data_dir, archive, limit, active=active, as_json=as_json)


@alerts_app.command(epilog='Example: esper alerts ack 1f9c --note "the disk is being replaced"')
def ack(
    alert: Annotated[str, typer.Argument(help="The beginning of an alert's id.", metavar="ALERT")],
    data_dir: DataDir = DATA_DIR,
    by: Person = "",
    note: Annotated[str, typer.Option("--note", help="What you know about it.")] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Say that you know of an alert: it stays in the history who did, and what they noted."""
    from esper.cli.alerts import acknowledge_command  # noqa: PLC0415

    acknowledge_command(data_dir, alert, by=by, note=note, as_json=as_json)


@alerts_app.command(epilog="Example: esper alerts silence training_latency_high --for 2h --reason maintenance")
def silence(  # noqa: PLR0917 - one parameter for each option of the command line
    rule: Annotated[str, typer.Argument(help="A rule's name; `all` for every one.", metavar="RULE")],
    data_dir: DataDir = DATA_DIR,
    lasting: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d; 0m ends a silence.")] = "1h",
    run: Annotated[str, typer.Option("--run", help="Only about this run.")] = "",
    by: Person = "",
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Have nobody told of some alerts for a while. They still fire, and stay in the history."""
    from esper.cli.alerts import silence_command  # noqa: PLC0415

    silence_command(data_dir, rule, lasting, run=run, by=by, reason=reason, as_json=as_json)


@alerts_app.command(epilog="Example: esper alerts resend")
def resend(
    alert: Annotated[str, typer.Argument(help="The beginning of an alert's id; without it all that failed.")] = "",
    data_dir: DataDir = DATA_DIR,
    by: Person = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Send again what a channel did not take."""
    from esper.cli.alerts import resend_command  # noqa: PLC0415

    resend_command(data_dir, alert, by=by, as_json=as_json)


@alerts_app.command("test", epilog="Example: esper alerts test slack")
def try_channel(
    channel: Annotated[Channel, typer.Argument(help="Which channel.", metavar="CHANNEL")],
    *,
    as_json: AsJson = False,
) -> None:
    """Send a message that is plainly a test, to see whether a channel reaches you. Needs nothing running."""
    from esper.cli.alerts import try_command  # noqa: PLC0415

    try_command(channel, as_json=as_json)


archive_app = typer.Typer(
    cls=Group, help="The archive: every event of the log as Parquet. What it covers, whether it is whole, copies."
)


@archive_app.command(epilog="Example: esper archive status --archive s3://bucket/esper")
def status(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """What is archived: offsets of every topic partition, files and their sizes, and what is plainly missing.

    Exit code 1 where something is. It reads no file but the manifest; `esper archive verify` reads them all.
    """
    from esper.cli.archive import status_command  # noqa: PLC0415

    return status_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive verify --json")
def verify(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """Read everything: each file against its checksum, each offset once, the facts of each run without a gap.

    What is damaged, missing, repeated or of a newer Esper is named; exit code 1 where the history is not whole. Needs
    nothing running, and may run beside everything.
    """
    from esper.cli.archive import verify_command  # noqa: PLC0415

    return verify_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive compact --data-dir esper-data")
def compact(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """Merge small files into few, which makes questions faster, and delete those that were replaced long ago.

    The archiver does that by itself while it runs; this is for an archive that no archiver writes any more. An archive
    of an earlier Esper is migrated first.
    """
    from esper.cli.archive import compact_command  # noqa: PLC0415

    compact_command(data_dir, as_json=as_json)


@archive_app.command(epilog="Example: esper archive copy s3://bucket/esper")
def copy(
    to: Annotated[str, typer.Argument(help="A folder, or an address that fsspec knows.", metavar="TO")],
    data_dir: DataDir = DATA_DIR,
    archive: Archive = None,
    *,
    as_json: AsJson = False,
) -> int:
    """Copy the archive, or what is new since the last copy; the copy is whole at every moment, and an archive itself.

    Every file is compared with its checksum on the way, and the manifest comes last; exit code 1 where one is damaged.
    """
    from esper.cli.archive import copy_command  # noqa: PLC0415

    return copy_command(data_dir, archive, to, as_json=as_json)


@archive_app.command(epilog="Example: esper archive repair epoch_completed-000000012.parquet --from s3://bucket/esper")
def repair(
    name: Annotated[str, typer.Argument(help="A file that `esper archive verify` names.", metavar="FILE")],
    data_dir: DataDir = DATA_DIR,
    copy: Annotated[
        str | None, typer.Option("--from", help="A copy of the archive; without it the log is asked.", metavar="COPY")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a damaged or missing file of the archive again, from a copy of it or from what the log still holds.

    The damaged file is set aside in `archive/damaged` and never deleted. From the log it is made with nothing running.
    """
    from esper.cli.archive import repair_command  # noqa: PLC0415

    repair_command(data_dir, name, copy, as_json=as_json)


@archive_app.command(epilog="Example: esper archive ducklake esper.ducklake")
def ducklake(
    to: Annotated[Path, typer.Argument(help="The catalogue to make, a file.", metavar="FILE")],
    data_dir: DataDir = DATA_DIR,
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that makes it, for a DuckDB that has the extension.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register the archive as a DuckLake: a catalogue that lists its files as tables, for any DuckDB to attach.

    The files stay where they are, and nothing of them is copied or written. The catalogue is of this moment: delete it
    and make it anew when the archive has gone on.
    """
    from esper.cli.archive import ducklake_command  # noqa: PLC0415

    ducklake_command(data_dir, to, as_sql=sql, as_json=as_json)


blueprints_app = typer.Typer(
    cls=Group, help="The catalogue that seeds grow from: what there is, what is compiled, what earned its place."
)


TierName = Literal["safe", "experimental", "high-risk"]


Id = Annotated[str, typer.Argument(help="A blueprint's id or name, such as BP016.", metavar="ID")]


@blueprints_app.command("list", epilog="Example: esper blueprints list --tier safe --shape image --stored")
def list_blueprints(  # noqa: PLR0917 - one parameter for each option of the command line
    tier: Annotated[TierName | None, typer.Option("--tier", help="Only those of this tier.")] = None,
    stage: Annotated[
        int | None, typer.Option("--stage", min=0, max=6, help="Only those of this stage of the curriculum.")
    ] = None,
    kind: Annotated[
        Literal["vector", "image", "token"] | None, typer.Option("--shape", help="Only those that serve such a site.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only those of a family, such as conv or norm.")] = None,
    measure: Annotated[
        str | None,
        typer.Option("--measure", help="Add weights and FLOPs at a site shape, such as 16x8x8.", metavar="SHAPE"),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    *,
    stored: Annotated[bool, typer.Option("--stored", help="Only those of which a kernel is stored.")] = False,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="What became of those that grew, those that gained most first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """All blueprints with tier, risk, parameters, approval and stored kernels. Needs nothing running."""
    from esper.cli.blueprints.catalogue import Wanted, list_command  # noqa: PLC0415

    wanted = Wanted(tier, stage, kind, tag, stored, outcomes, measure)
    list_command(data_dir, wanted, as_json=as_json)


@blueprints_app.command(epilog="Example: esper blueprints show BP016 --shape 16x8x8")
def show(
    blueprint: Id,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="Draw it for this site: 32 a vector, 16x32 tokens, 16x8x8 an image."),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """One blueprint in full: facts, risk sheet, formula, its module, what was measured and what became of it."""
    from esper.cli.blueprints.show import show_command  # noqa: PLC0415

    show_command(data_dir, blueprint, shape, as_json=as_json)


@blueprints_app.command(epilog="Example: esper blueprints history BP009")
def history(blueprint: Id, data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """The life of a blueprint: registered, approved, compiled, stored, attached, and what came of it."""
    from esper.cli.blueprints.history import history_command  # noqa: PLC0415

    history_command(data_dir, blueprint, as_json=as_json)


@blueprints_app.command(epilog='Example: esper blueprints approve BP039 --by ada --why "ODEs on spirals"')
def approve(
    blueprint: Id,
    by: Annotated[str, typer.Option("--by", help="Who approves: it is recorded, with the reason.")],
    why: Annotated[str, typer.Option("--why", help="The reason, for whoever reads the history later.")],
    data_dir: DataDir = DATA_DIR,
    *,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take an approval back instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let an experimental or high-risk blueprint be used, or take that back: a signed event that says who and why."""
    from esper.cli.blueprints.compile import approve_command  # noqa: PLC0415

    approve_command(data_dir, blueprint, by=by, why=why, withdraw=withdraw, as_json=as_json)


@blueprints_app.command("compile", epilog="Example: esper blueprints compile --tier safe --task digits --pipeline fast")
def compile_(  # noqa: PLR0917 - one parameter for each option of the command line
    blueprints: Annotated[
        list[str] | None, typer.Argument(help="Ids or names; without any all of the tier.", metavar="[ID]...")
    ] = None,
    tier: Annotated[TierName, typer.Option("--tier", help="Which tier, where no blueprint is named.")] = "safe",
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="For a site of this shape, such as 16x8x8; may be given several times."),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="For the sites of this task, where no --shape is given.")
    ] = "digits",
    pipeline: Annotated[
        Literal["standard", "fast", "emergency"],
        typer.Option("--pipeline", help="How much the compiler tries, up to 250, 65 or 10 s; emergency stays eager."),
    ] = "standard",
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> int:
    """Have the forge make kernels ahead of time, and show what each costs. 1 where one had to be given up.

    What is stored already is skipped. Ctrl-C ends the waiting: what was asked for goes on with the next run.
    """
    from esper.cli.blueprints.compile import CompileRequest, compile_command  # noqa: PLC0415

    request = CompileRequest(
        data_dir=data_dir,
        words=tuple(blueprints or ()),
        tier=tier,
        shapes=tuple(shapes or ()),
        task=task,
        pipeline=pipeline,
        as_json=as_json,
    )
    return compile_command(request)


projections_app = typer.Typer(
    cls=Group, help="Tables folded from the log into DuckDB files: what there is, how far it is, made anew."
)


@projections_app.command("list", epilog="Example: esper projections list")
def list_projections(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """All projections: what they hold, which process keeps them, their state and size. Needs nothing running.

    With --json their files, views and migrations, too.
    """
    from esper.cli.projections import list_command  # noqa: PLC0415

    list_command(data_dir, as_json=as_json)


@projections_app.command(epilog="Example: esper projections rebuild experience")
def rebuild(
    name: Annotated[str, typer.Argument(help="A projection, as `list` names it, or `all`.", metavar="NAME")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a projection anew out of the archive alone; the old file serves until the new one is whole.

    The file is a DuckDB database: open it with any tool, one process at a time. Needs nothing running.
    """
    from esper.cli.projections import rebuild_command  # noqa: PLC0415

    rebuild_command(data_dir, name, as_json=as_json)


@projections_app.command(epilog="Example: esper projections lag --json")
def lag(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """How many records each projection lacks, against the archive; of one that is being kept, its keeper says it."""
    from esper.cli.projections import lag_command  # noqa: PLC0415

    lag_command(data_dir, as_json=as_json)
