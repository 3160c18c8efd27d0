"""The commands of `esper alerts`: their arguments, options and help."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from esper.cli.commands.options import DATA_DIR, Archive, AsJson, DataDir, Group

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
