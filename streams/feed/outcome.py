"""An example of a training job that is fed by other runs: it learns to foresee what becomes of Tamiyo's decisions.

    python -m streams.feed.outcome --data-dir esper-data

It begins with all history and then follows the log, while `esper run` writes it. Whenever a field report comes, it says
what it had expected, and learns. After every batch it writes a checkpoint: network, optimiser and the feed's own state
in one file, replaced in one step. So it may be killed at any moment and goes on as if it had not been: every event has
been seen once by the network of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

from esper.errors import CorruptState, EsperError
from streams.feed.batch import Batch
from streams.feed.feed import EventFeed
from streams.feed.outcome_model import DECISIONS, PACKETS, REPORTS, Chain, Foreseen, Predictor
from streams.settings import Settings

CHECKPOINT: Final = "outcome.pt"


class Job:
    """The predictor, the chain that it learns from, the feed, and how they are kept together."""

    def __init__(self, data_dir: Path, checkpoint: Path, *, follow: bool) -> None:
        self.feed = EventFeed(
            data_dir, PACKETS, DECISIONS, REPORTS, end="never" if follow else "archive", batch_size=256
        )
        self.chain = Chain()
        self.predictor = Predictor()
        self.events: Counter[str] = Counter()
        self.checksum = 0
        self._checkpoint = checkpoint
        if checkpoint.exists():
            self._load()

    def take(self, batch: Batch) -> list[Foreseen]:
        """Learn from a batch and keep what was learnt; what had been expected of each report in it."""
        learnt = [self.predictor.learn(sample) for sample in self.chain.take(batch)]
        self.events[batch.body] += len(batch)
        self.checksum = (self.checksum + sum(int.from_bytes(row) for row in batch["id"].numpy())) % 2**128
        self._save()
        return learnt

    def summary(self) -> dict[str, Any]:
        """What was seen and how well it was foreseen. `checksum` is the sum of the ids, modulo 2 to the 128."""
        asked = max(self.predictor.asked, 1)
        return {
            "events": dict(self.events),
            "checksum": f"{self.checksum:032x}",
            "reports": self.predictor.asked,
            "accuracy": self.predictor.right / asked,
            "loss": self.predictor.loss / asked,
            "delta_error": self.predictor.error / asked,
        }

    def _save(self) -> None:
        state = self.feed.state_dict()
        for lane in state["lanes"].values():
            lane["end"] = None  # the next start goes on with what has come since, whichever end it has
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._checkpoint.with_suffix(f".{os.getpid()}")
        with temporary.open("wb") as file:
            torch.save(
                {
                    "feed": state,
                    "predictor": self.predictor.state_dict(),
                    "chain": [self.chain.packets, self.chain.decisions, self.chain.reports],
                    "events": dict(self.events),
                    "checksum": f"{self.checksum:032x}",
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._checkpoint)

    def _load(self) -> None:
        try:
            kept = torch.load(self._checkpoint, weights_only=True)
            self.feed.load_state_dict(kept["feed"])
            self.predictor.load_state_dict(kept["predictor"])
            self.chain = Chain(*kept["chain"])
            self.events = Counter(kept["events"])
            self.checksum = int(kept["checksum"], 16)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            raise CorruptState(
                f"the job's checkpoint {self._checkpoint} is unreadable ({type(error).__name__}): delete it"
            ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn until Ctrl-C or SIGTERM, or to the end of what is archived; 1 after a one-line error."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.feed.outcome",
        description="Learn from all runs of a data folder, past and present, how Tamiyo's decisions turn out.",
        epilog="example: esper run & python -m streams.feed.outcome --data-dir esper-data",
    )
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--checkpoint", type=Path, help=f"default: projections/{CHECKPOINT} in the data folder")
    parser.add_argument("--once", action="store_true", help="learn from the archive alone, and stop at its end")
    parser.add_argument("--json", action="store_true", help="one JSON object per report, and one at the end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="outcome: %(message)s")
    signal.signal(signal.SIGTERM, _as_interrupt)
    torch.set_num_threads(1)  # the network is too small to share, and the run that it watches needs the cores
    job = None
    try:
        data_dir = Settings.load(data=options.data_dir).data
        job = Job(data_dir, options.checkpoint or data_dir / "projections" / CHECKPOINT, follow=not options.once)
        for batch in job.feed:
            for foreseen in job.take(batch):
                _say(json.dumps(asdict(foreseen)) if options.json else str(foreseen))
    except KeyboardInterrupt:
        pass
    except EsperError as error:
        sys.stderr.write(f"outcome: {error}\n")
        return 1
    if job is not None:
        _say(json.dumps(job.summary()) if options.json else _summary(job))
    return 0


def _as_interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _summary(job: Job) -> str:
    figures = job.summary()
    seen = ", ".join(f"{count:,} {body}" for body, count in sorted(job.events.items())) or "nothing"
    return (
        f"seen {seen}; {figures['reports']:,} reports foreseen with accuracy {figures['accuracy']:.3f}, "
        f"log loss {figures['loss']:.3f}, the change of the loss within {figures['delta_error']:.4f}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
