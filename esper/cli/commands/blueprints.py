"""The commands of `esper blueprints`: their arguments, options and help."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from esper.cli.commands.options import DATA_DIR, AsJson, DataDir, Group

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
