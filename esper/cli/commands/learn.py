"""The commands of `esper learn`: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from esper.cli.commands.options import DATA_DIR, AsJson, DataDir, Group
from esper.errors import InvalidInput

HELP: Final = """Whether growing can be decided better than by the heuristic, and a policy that learns to.

\b
  esper learn headroom --minutes 30    how much better could any policy be?
  esper learn train                    a policy out of such forks, and judged
  esper learn demo --data-dir demo     the whole loop once, on its own log
"""

learn_app = typer.Typer(cls=Group, help=HELP)


def _tasks(value: str) -> str:
    if not all(part.strip() for part in value.split(",")):
        raise InvalidInput(f"--tasks {value!r} has an empty name; write names with commas between, such as tab,spirals")
    return value


@learn_app.command(
    epilog="Example: esper learn headroom --tasks tab,tab@700,spirals --states 24 --actions 6 --minutes 30"
)
def headroom(  # noqa: PLR0917 - one parameter for each option of the command line
    data_dir: DataDir = DATA_DIR,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            callback=lambda value: None if value is None else _tasks(value),
            help="Tasks, with commas between; NAME@PARAMS gives a task a host of about so many parameters. By default "
            "tab, tabn and spirals with two sizes each.",
            metavar="NAMES",
        ),
    ] = None,
    states: Annotated[int | None, typer.Option("--states", min=1, help="States in all; 120 by default.")] = None,
    actions: Annotated[
        int | None, typer.Option("--actions", min=2, help="Actions that are tried in each, at most; 12 by default.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option("--orders", min=2, help="Orders of data that each is tried in; 2 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The random seed of the first runs; 1000 by default.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Stop after so long; the next call goes on from there.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", min=0, help="Loss that a control run's training FLOPs are worth; 0.03 by default."),
    ] = None,
    lifecycle: Annotated[
        Literal["careful", "swift"] | None, typer.Option("--lifecycle", help="Of the runs; careful by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the rows; learn/headroom of the data folder by default."),
    ] = None,
    *,
    table: Annotated[
        bool, typer.Option("--table", help="Train nothing: the table of the rows that there are.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Leave decisions of a sample of runs by every action, and tell how much better than the heuristic's the best is.

    Each rollout is a fork of a run that is trained here to be counted, and goes on with the heuristic to its end. The
    best action of a state is chosen on one order of data and scored on another. Every finished rollout is on the disk:
    a measurement that was stopped goes on where it was. Exit code 1 where it is not complete yet.
    """
    from esper.cli.headroom import headroom_command  # noqa: PLC0415

    given = {
        "states": states,
        "actions": actions,
        "orders": orders,
        "first_seed": seed,
        "lifecycle": lifecycle,
        "tasks": None if tasks is None else tuple(name.strip() for name in tasks.split(",")),
    }
    return headroom_command(
        data_dir if out is None else out,
        {name: value for name, value in given.items() if value is not None},
        minutes=minutes,
        price=price,
        own_folder=out is not None,
        only_table=table,
        as_json=as_json,
    )


@learn_app.command(epilog="Example: esper learn train --epochs 30 --rate 1e-3 --ensemble")
def train(  # noqa: PLR0917 - one parameter for each option of the command line
    data_dir: DataDir = DATA_DIR,
    rows: Annotated[
        Path | None,
        typer.Option("--rows", help="The folder of the forks; learn/headroom of the data folder by default."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the training, 25 steps each.")] = 20,
    rate: Annotated[float, typer.Option("--rate", help="The learning rate of the policy's network.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The random seed of the training.")] = 0,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Seeds of each task that it is judged on.")] = 8,
    price: Annotated[
        float, typer.Option("--price", min=0, help="Loss that a control run's training FLOPs are worth.")
    ] = 0.03,
    *,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="Imitate the lower bounds of an ensemble fitted on the forks, not the forks."),
    ] = False,
    go_on: Annotated[bool, typer.Option("--go-on", help="Go on with a training that was stopped.")] = False,
    as_json: AsJson = False,
) -> int:
    """Train a policy on the forks of `esper learn headroom`, and have six gates judge it.

    It is compared with the policy that is live, or with the heuristic where none is, in pairs of whole runs on seeds
    that the forks had not. What came of it is on the log: `esper policy show` tells it, and `esper policy promote` lets
    one decide that passed. Exit code 1 where it was rejected.
    """
    from esper.cli.train import train_command  # noqa: PLC0415
    from esper.simic.trainer import TrainingSettings  # noqa: PLC0415

    return train_command(
        data_dir,
        TrainingSettings(epochs=epochs, rate=rate, seed=seed, curriculum=False),
        rows=rows,
        trials=trials,
        price=price,
        ensemble=ensemble,
        goes_on=go_on,
        as_json=as_json,
    )


@learn_app.command(epilog="Example: esper learn demo --data-dir demo")
def demo(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> int:
    """Play the whole loop once: runs, training, gates, a promotion while a run trains, and the replay of that run.

    A fresh network decides the first runs, on the log, with decisions and reports. Two candidates are trained: one
    imitates what the runs did, and the gates reject it; one learns from forks of such runs, passes, and is promoted
    while a run trains, which it decides from then on. That run is replayed bit for bit across the swap. Each step tells
    the ids of its events. It takes some minutes, and a data folder in which no policy is live. Exit code 1 where a step
    does not come out like that.
    """
    from esper.cli.demo import demo_command  # noqa: PLC0415

    return demo_command(data_dir, as_json=as_json)
