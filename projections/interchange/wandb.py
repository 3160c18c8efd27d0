"""A run as Weights & Biases keeps one that was offline: `wandb sync` brings it to a server, and nothing else does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from projections.interchange.figures import Taken
from projections.interchange.libraries import library

EXTRA: Final = "wandb"
PROJECT: Final = "esper"


def write(run: Taken, folder: Path) -> int:
    """Write the run below `folder`; how many rows of figures it has. Nothing is sent anywhere.

    Figures of an epoch have `epoch` as their step, all others `step`. Raises InvalidInput where wandb is not installed.
    """
    wandb = library("wandb", EXTRA)
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode="offline",
        root_dir=str(folder),
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        disable_git=True,
        save_code=False,
    )
    rows = 0
    try:
        with wandb.init(
            project=PROJECT,
            id=run.run_id,
            name=run.label,
            config=dict(run.settings) | dict(run.tags),
            tags=[run.task],
            settings=settings,
        ) as made:
            for name in ("epoch/*", "test/*"):
                made.define_metric(name, step_metric="epoch")
            for name in ("step/*", "seeds/*", "own/*"):
                made.define_metric(name, step_metric="step")
            for (axis, at, time_ns), points in itertools.groupby(
                run.points, key=lambda each: (each.axis, each.at, each.time_ns)
            ):
                figures = {each.name: each.value for each in points}
                made.log({axis: at, "_timestamp": time_ns / 1e9, **figures})
                rows += 1
            if run.notes:
                columns = ["epoch", "step", "what", "text"]
                lines = [[each.epoch, each.step, each.name, each.text] for each in run.notes]
                made.log({"events": wandb.Table(columns=columns, data=lines)})
    finally:
        wandb.teardown()
    return rows
