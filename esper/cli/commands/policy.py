"""The commands of `esper policy`: their arguments, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from esper.cli.commands.options import DATA_DIR, Archive, AsJson, DataDir, Group

policy_app = typer.Typer(
    cls=Group, help="The policies that Simic trained: what their gates found, which one decides, and going back."
)

Version = Annotated[
    str,
    typer.Argument(help="A version such as 1.2.0, `live`, `staged`, or sha256:... of its weights.", metavar="VERSION"),
]
By = Annotated[str, typer.Option("--by", help="Who does it: it is recorded, with the reason.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for whoever reads the history later.")]


@policy_app.command("list", epilog="Example: esper policy list --json")
def list_policies(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> None:
    """All versions with their state, what their gates found and who promoted them. Needs nothing running."""
    from esper.cli.policy import list_command  # noqa: PLC0415

    list_command(data_dir, archive, as_json=as_json)


@policy_app.command(epilog="Example: esper policy show live")
def show(version: Version, data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> None:
    """One version in full: what it was trained on, every gate with its figures, and who decides with it."""
    from esper.cli.policy import show_command  # noqa: PLC0415

    show_command(data_dir, archive, version, as_json=as_json)


@policy_app.command(epilog="Example: esper policy diff heuristic live --states 500")
def diff(
    old: Annotated[str, typer.Argument(help="A version, or heuristic, random or none.", metavar="A")],
    new: Annotated[str, typer.Argument(help="As A.", metavar="B")],
    states: Annotated[
        int, typer.Option("--states", min=1, help="So many of the newest decisions of the archive are made again.")
    ] = 200,
    data_dir: DataDir = DATA_DIR,
    archive: Archive = None,
    *,
    as_json: AsJson = False,
) -> int:
    """In which states of the archive two policies decide otherwise; the exit code is 1 where they do anywhere."""
    from esper.cli.policy import diff_command  # noqa: PLC0415

    return diff_command(data_dir, archive, old, new, states, as_json=as_json)


@policy_app.command(epilog='Example: esper policy promote 1.2.0 --share 0.1 --by ada --why "half a point on digits"')
def promote(
    version: Version,
    by: By,
    why: Why,
    share: Annotated[
        float, typer.Option("--share", min=0.0, max=0.999, help="Of new runs that it decides for at first; 0 is all.")
    ] = 0.0,
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Let a version that passed its gates decide from now on, in runs that train too; who and why is recorded."""
    from esper.cli.policy import promote_command  # noqa: PLC0415

    promote_command(data_dir, version, by=by, why=why, share=share, as_json=as_json)


@policy_app.command(epilog='Example: esper policy rollback --by ada --why "it culls what pays"')
def rollback(
    by: By,
    why: Why,
    version: Annotated[
        str | None, typer.Argument(help="A version that was live; the one before without it.", metavar="[VERSION]")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Go back to a version that was live before: at once, counted on the one that is left."""
    from esper.cli.policy import rollback_command  # noqa: PLC0415

    rollback_command(data_dir, version, by=by, why=why, as_json=as_json)
