"""An example of a training job that is fed by other runs: it learns to foresee what becomes of Tamiyo's decisions.

    python -m streams.feed.outcome --data-dir esper-data

From the state packet on which Tamiyo acted it foretells how the field report will turn out. The chain is joined by ids
as it comes: a report was caused by a command or, where no window watched, by the decision itself; the decision names
its packet. The three lie on three topics, so any of them may come first; what waits for its partners is bounded.

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
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn

from contracts.leyline.v1.leyline_pb2 import FIELD_REPORT_OUTCOME_SUCCESS
from esper.errors import CorruptState, EsperError
from streams.feed.batch import Batch
from streams.feed.feed import EventFeed
from streams.feed.schema import LONGEST, SEEDS, Field, Schema
from streams.settings import Settings

PACKETS: Final = Schema(
    "epoch_completed",
    [
        Field("event_id", "id", width=16),
        Field("epoch"),
        Field("epochs_total"),
        Field("state.validation_loss", "loss"),
        Field("state.validation_accuracy", "accuracy"),
        Field("state.training_loss", "training_loss"),
        Field("params"),
        Field("params_host"),
        Field("params_budget"),
        Field("epochs_since_structural_change", "settled"),
        Field("seeds.stage", "stage", pad=LONGEST),
        Field("seeds.alpha", "alpha", pad=LONGEST),
        Field("evidence.gradient_norm", "pull", pad=LONGEST),
        Field("evidence.descent", "descent", pad=LONGEST),
    ],
)
DECISIONS: Final = Schema(
    "decision_made",
    [
        Field("event_id", "id", width=16),
        Field("command_id", "command", width=16),
        Field("packet_id", "packet", width=16),
    ],
)
REPORTS: Final = Schema(
    "field_report",
    [
        Field("event_id", "id", width=16),
        Field("causation_id", "cause", width=16),
        Field("outcome"),
        Field("metrics[loss_delta_total]", "delta"),
        Field("seed_id", "seed", among=SEEDS),
    ],
)
WAITING: Final = 10_000
"""Packets, ids of decisions and of their commands, and reports, each, that are kept for a partner."""
REPLAY: Final = 4_096
"""Samples that are learnt from again."""
STEPS: Final = 8
SAMPLE: Final = 32
FEATURES: Final = 11
CHECKPOINT: Final = "outcome.pt"


@dataclass(slots=True)
class Sample:
    """A report with what was known when Tamiyo acted."""

    features: Tensor
    success: float
    delta: float


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A report, what had been expected of it, and how good all expectations were so far."""

    report: int
    success: bool
    expected: float
    delta: float
    expected_delta: float
    accuracy: float
    loss: float

    def __str__(self) -> str:
        return (
            f"report {self.report:>5}  {'success' if self.success else 'no gain'}, expected {self.expected:4.0%}  "
            f"loss {self.delta:+.4f}, expected {self.expected_delta:+.4f}  "
            f"so far: accuracy {self.accuracy:.3f}, log loss {self.loss:.3f}"
        )


@dataclass(slots=True)
class Chain:
    """Joins packets, decisions and reports. Ids are hexadecimal, so that a checkpoint holds plain types only."""

    packets: OrderedDict[str, tuple[Tensor, Tensor]] = field(default_factory=OrderedDict)
    decisions: OrderedDict[str, str] = field(default_factory=OrderedDict)
    reports: OrderedDict[str, tuple[int, float, float]] = field(default_factory=OrderedDict)

    def take(self, batch: Batch) -> Iterator[Sample]:
        """The samples that are complete with this batch."""
        if batch.body == "epoch_completed":
            run, seeds = _features(batch)
            self.packets.update(zip(_hex(batch["id"]), zip(run, seeds, strict=True), strict=True))
        elif batch.body == "decision_made":
            acted = (batch["command"] != 0).any(1)
            self.decisions.update(zip(_hex(batch["id"]), _hex(batch["packet"]), strict=True))
            self.decisions.update(zip(_hex(batch["command"][acted]), _hex(batch["packet"][acted]), strict=True))
        else:
            success = (batch["outcome"] == FIELD_REPORT_OUTCOME_SUCCESS).tolist()
            found = zip(batch["seed"].tolist(), success, batch["delta"].nan_to_num().tolist(), strict=True)
            self.reports.update(zip(_hex(batch["cause"]), found, strict=True))
        yield from self._complete()
        for kept in (self.packets, self.decisions, self.reports):
            while len(kept) > WAITING:
                kept.popitem(last=False)

    def _complete(self) -> Iterator[Sample]:
        for cause in list(self.reports):
            packet = self.packets.get(self.decisions.get(cause, ""))
            if packet is not None:
                seed, success, delta = self.reports.pop(cause)
                run, seeds = packet
                at = seeds[seed - 1] if 0 < seed <= len(seeds) else torch.zeros(seeds.shape[1])
                yield Sample(torch.cat([run, at]), float(success), delta)


def _features(batch: Batch) -> tuple[Tensor, Tensor]:
    """What a packet says of the run, shape (n, 7), and of each seed, shape (n, seeds, 4)."""
    number = {name: batch[name].to(torch.float32).nan_to_num() for name in batch if not name.endswith(".mask")}
    run = [
        number["epoch"] / number["epochs_total"].clamp(min=1),
        number["loss"].clamp(max=10),
        number["accuracy"],
        number["training_loss"].clamp(max=10),
        number["params"] / number["params_host"].clamp(min=1) - 1,
        (number["params"] - number["params_host"]) / number["params_budget"].clamp(min=1),
        number["settled"] / 10,
    ]
    wide = max(number[name].shape[1] for name in ("stage", "alpha", "pull", "descent"))
    scaled = [number["stage"] / 11, number["alpha"], number["pull"].log1p(), number["descent"].log1p()]
    seeds = [nn.functional.pad(each, (0, wide - each.shape[1])) for each in scaled]
    return torch.stack(run, dim=-1), torch.stack(seeds, dim=-1)


def _hex(ids: Tensor) -> list[str]:
    return [bytes(row).hex() for row in ids.numpy()]


class Predictor:
    """A small network that is asked first and then taught, so that its figures are of events it had not seen."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 2))
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3)
        self._seen = torch.zeros(0, FEATURES + 2)
        self.asked = 0
        self.right = 0
        self.loss = 0.0
        self.error = 0.0

    def learn(self, sample: Sample) -> Foreseen:
        """What was expected; then learn what came."""
        with torch.no_grad():
            logit, delta = self.network(sample.features).tolist()
        probability = float(torch.tensor(logit).sigmoid())
        truth = torch.tensor(sample.success)
        self.loss += float(nn.functional.binary_cross_entropy_with_logits(torch.tensor(logit), truth))
        self.right += (probability >= 0.5) == bool(sample.success)
        self.error += abs(delta - sample.delta)
        self.asked += 1
        row = torch.cat([sample.features, torch.tensor([sample.success, sample.delta])])
        self._seen = torch.cat([self._seen, row[None]])[-REPLAY:]
        for _ in range(STEPS):
            self._step()
        return Foreseen(
            report=self.asked,
            success=bool(sample.success),
            expected=probability,
            delta=sample.delta,
            expected_delta=delta,
            accuracy=self.right / self.asked,
            loss=self.loss / self.asked,
        )

    def _step(self) -> None:
        rows = self._seen[torch.randint(len(self._seen), (SAMPLE,), generator=self._generator)]
        logit, delta = self.network(rows[:, :FEATURES]).unbind(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, rows[:, FEATURES])
        loss = loss + nn.functional.huber_loss(delta, rows[:, FEATURES + 1])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything, so that the same events after it make the same network."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "seen": self._seen,
            "figures": [self.asked, self.right, self.loss, self.error],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The way back."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._seen = state["seen"]
        self.asked, self.right, self.loss, self.error = state["figures"]


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
        for cursor in state["lanes"].values():
            cursor["end"] = None  # the next start goes on with what has come since, whichever end it has
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
                f"the job's checkpoint {self._checkpoint} is unreadable ({type(error).__name__}): move it away"
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
