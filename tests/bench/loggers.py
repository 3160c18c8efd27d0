"""The loggers that people use, as far as they are installed here: what records a few figures of a step with each.

Nothing is installed for it: one that cannot be imported, or does not start without a network, is named with the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Record = Callable[[int], object]
"""Records the figures for a step."""


def _tensorboard(folder: Path, figures: Mapping[str, float]) -> Record:
    importlib.import_module("tensorboard")
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def record(step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return record


def _trackio(folder: Path, figures: Mapping[str, float]) -> Record:
    os.environ.setdefault("TRACKIO_DIR", str(folder))
    trackio: Any = importlib.import_module("trackio")
    trackio.init(project="bench", embed=False)
    return lambda step: trackio.log(dict(figures), step=step)


def _wandb(folder: Path, figures: Mapping[str, float]) -> Record:
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(project="bench", mode="offline", dir=str(folder), settings=wandb.Settings(silent=True))
    return lambda step: run.log(dict(figures), step=step)


def _mlflow(folder: Path, figures: Mapping[str, float]) -> Record:
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.start_run()
    return lambda step: mlflow.log_metrics(dict(figures), step=step)


_STARTED = {"Trackio": _trackio, "TensorBoard": _tensorboard, "W&B offline": _wandb, "MLflow on SQLite": _mlflow}


def loggers(folder: Path, figures: Mapping[str, float]) -> tuple[dict[str, Record], dict[str, str]]:
    """Those that record `figures` into `folder`, by name, and why the others do not."""
    found: dict[str, Record] = {}
    missing: dict[str, str] = {}
    for name, start in _STARTED.items():
        own = folder / name.split()[0].lower()
        own.mkdir()
        try:
            with _quiet():
                found[name] = start(own, figures)
                found[name](0)
        except ImportError:
            missing[name] = "not installed"
        except Exception as error:  # noqa: BLE001 - a logger is foreign code, and the others are measured all the same
            missing[name] = f"does not start: {type(error).__name__}"
    return found, missing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a logger says of itself is no part of the table."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
