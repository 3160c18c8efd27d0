"""Trains Tamiyo's network: by imitating what simulated actions came to, and by PPO on what runs came to.

The same buffer, settings and seed give the same weights, whether the training was interrupted or not: every step draws
by generators that follow from the seed and its number, and a checkpoint holds all that decides what follows. Nothing
here touches a run (R-SIM-44). A loss that rises for ten epochs puts the last good state back at half the rate.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from esper.errors import CorruptState, InvalidInput
from esper.simic import ewc, lora
from esper.simic.advantages import Estimate, estimates, reference_choice
from esper.simic.curriculum import sampling_weights, stage_of
from esper.simic.experience import Experience
from esper.simic.judging import READOUT_WEIGHT, Seen, imitation, judge, readouts
from esper.simic.learning_rate import LearningRateController
from esper.simic.ppo import Batch, Judged, PPOSettings, Progress, Stepper, ppo_loss
from esper.simic.replay_buffer import ReplayBuffer
from esper.tamiyo.network import TamiyoNet

RISING_EPOCHS: Final = 10
LOWERED: Final = 0.5
_METADATA: Final = "simic"


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. `epochs` of `steps_per_epoch` steps over `batch` experiences each.

    `imitate` learns from simulated actions, `ppo` from what runs came to. `temperature` is in the unit of the utility.
    `discount` and `smoothing` are 1: growth's worth is undiscounted and paid at the end.
    """

    method: Literal["imitate", "ppo"] = "imitate"
    epochs: int = 20
    steps_per_epoch: int = 25
    batch: int = 32
    rate: float = 3e-4
    warmup_steps: int = 10
    weight_decay: float = 1e-5
    seed: int = 0
    temperature: float = 0.01
    discount: float = 1.0
    smoothing: float = 1.0
    curriculum: bool = True
    conservative: bool = False
    ewc_weight: float = ewc.WEIGHT
    ppo: PPOSettings = field(default_factory=PPOSettings)
    adapt: lora.LoRASettings | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.steps_per_epoch, self.batch) < 1 or not self.temperature > 0 or not self.rate > 0:
            raise InvalidInput(
                f"training needs epochs, steps_per_epoch and batch of 1 at least and a rate and temperature above 0, "
                f"not {self.epochs}, {self.steps_per_epoch}, {self.batch}, {self.rate} and {self.temperature}"
            )

    @property
    def total_steps(self) -> int:
        """All steps of the training."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class Told:
    """How far the training is: of how many steps, with the last epoch's figures."""

    step: int
    of: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: figures by the names of policy sheet 2.8, and why steps were left out."""

    figures: Mapping[str, float]
    skipped: Mapping[str, int]
    restored: int


class Trainer:
    """Trains `network` on `buffer`. `anchor` keeps what an earlier training needs, by a penalty (EWC).

    `reference` is the live policy's network that PPO is held near to (`PPOSettings.leash`).
    """

    def __init__(
        self,
        network: TamiyoNet,
        buffer: ReplayBuffer,
        settings: TrainingSettings,
        *,
        monotonic: Callable[[], float],
        anchor: ewc.Anchor | None = None,
        reference: TamiyoNet | None = None,
    ) -> None:
        self.network = network
        self.buffer = buffer
        self.settings = settings
        self.step = 0
        self.progress = Progress()
        self.restored = 0
        self._anchor = anchor
        self._reference = reference
        self._monotonic = monotonic
        if settings.adapt is not None:
            lora.attach(network, settings.adapt, _generator(settings.seed, 0, "adapters"))
        self._parameters = {name: each for name, each in network.named_parameters() if each.requires_grad}
        optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=settings.rate, eps=1e-5, weight_decay=settings.weight_decay
        )
        self._rates = LearningRateController(
            optimizer,
            rate=settings.rate,
            total_steps=settings.total_steps,
            warmup_steps=settings.warmup_steps,
            policy="cosine",
            monotonic=monotonic,
        )
        self._stepper = Stepper(
            self._parameters.values(), self._rates, max_gradient_norm=settings.ppo.max_gradient_norm
        )
        self._rising = 0
        self._epoch_loss = math.inf
        self._good = b""
        self._sums: Counter[str] = Counter()
        self._taken = 0
        self._estimates: dict[bytes, Estimate] = {}
        self._figures: dict[str, float] = {}

    def train(
        self, progress: Callable[[Told], None] = lambda _told: None, save: Callable[[bytes], None] = lambda _state: None
    ) -> Trained:
        """Train to the end, and leave the network in eval mode; `save` gets a checkpoint after every epoch.

        Raises InvalidInput where the buffer has too little (`insufficient data`).
        """
        started = self._monotonic()
        seen = 0
        while self.step < self.settings.total_steps:
            if self.step % self.settings.steps_per_epoch == 0:
                self._begin_epoch()
            seen += self._take_step()
            if self.step % self.settings.steps_per_epoch == 0:
                self._end_epoch()
                save(self.checkpoint())
                progress(Told(self.step, self.settings.total_steps, dict(self._figures)))
        self.network.eval()
        if self.settings.adapt is not None:
            lora.merge(self.network)
        seconds = max(self._monotonic() - started, 1e-9)
        steps = max(1, self.progress.steps)
        figures = self._figures | {
            "simic_training_time_ms": 1e3 * seconds / steps,
            "simic_throughput_exp_sec": seen / seconds,
        }
        return Trained(figures, dict(self.progress.skipped), self.restored)

    # ----------------------------------------------------------------------------------------------------- one step

    def _begin_epoch(self) -> None:
        self._sums, self._taken = Counter(), 0
        if self.settings.method == "ppo":
            self.network.eval()
            self._estimates = estimates(
                self.network,
                list(self.buffer),
                rows_at_once=self.settings.batch,
                discount=self.settings.discount,
                smoothing=self.settings.smoothing,
                reference=self._reference,
            )

    def _take_step(self) -> int:
        """One optimiser step; how many experiences it was over."""
        settings = self.settings
        # Dropout draws from the global generator, so the step has one of its own: what came before does not matter.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_number(settings.seed, self.step, "dropout"))
            drawn = self.buffer.draw(
                settings.batch,
                _generator(settings.seed, self.step, "draw"),
                factors=self._factors(),
                conservative=settings.conservative,
            )
            experiences = list(drawn.experiences)
            # PPO's ratio is of two probabilities of one network: dropout would be part of it.
            self.network.train(settings.method == "imitate")
            seen = judge(self.network, experiences)
            if settings.method == "imitate":
                loss, figures, errors = self._imitate(seen, experiences, drawn.weights)
            else:
                loss, figures, errors = self._improve(seen, experiences, drawn.weights)
            if self._anchor is not None:
                held = ewc.penalty(self.network, self._anchor, settings.ewc_weight)
                loss, figures = loss + held, figures | {"ewc_penalty": float(held.detach())}
            if self._stepper.step(loss, self.progress):
                self.buffer.reprioritise(experiences, errors)
                self._sums.update(figures)
                self._taken += 1
        self.step += 1
        return len(experiences)

    def _imitate(
        self, seen: Seen, experiences: list[Experience], weights: Tensor
    ) -> tuple[Tensor, dict[str, float], list[float]]:
        losses = imitation(seen, experiences, weights, self.settings.temperature)
        entropy = float(seen.judged.choice.entropy().mean().detach())
        return losses.total, losses.figures() | {"entropy": entropy}, losses.errors.tolist()

    def _improve(
        self, seen: Seen, experiences: list[Experience], weights: Tensor
    ) -> tuple[Tensor, dict[str, float], list[float]]:
        found = [self._estimates[each.provenance.decision_id] for each in experiences]
        batch = Batch(
            actions=torch.tensor([each.action for each in experiences]),
            log_probabilities=torch.tensor([each.log_probability for each in found]),
            advantages=torch.tensor([each.advantage for each in found]),
            targets=torch.tensor([each.target for each in found]),
            values=torch.tensor([each.value for each in found]),
            weights=weights * torch.tensor([each.correction for each in found]),
            reference=reference_choice(found) if self._reference is not None else None,
        )
        losses = ppo_loss(
            Judged(seen.judged.choice, seen.judged.values), batch, torch.arange(len(experiences)), self.settings.ppo
        )
        told = readouts(seen, experiences, seen.judged.choice.probabilities.detach())
        errors = (batch.targets - seen.judged.values.detach()).tolist()
        target_kl = self.settings.ppo.target_kl
        if target_kl and float(losses.kl) > target_kl and self.step % self.settings.steps_per_epoch:
            # The early stop of R-SIM-17: what is left of the epoch learns the value alone.
            self._sums["stopped_early"] += 1
            value_alone = self.settings.ppo.value_weight * losses.value
            return value_alone, losses.figures(), errors
        figures = losses.figures() | {"param_loss": float(told.detach())}
        return losses.total + READOUT_WEIGHT * told, figures, errors

    def _factors(self) -> Tensor | None:
        if not self.settings.curriculum:
            return None
        stage = stage_of(self.step / self.settings.total_steps)
        return sampling_weights([int(each.mask.sum()) for each in self.buffer], stage)

    # ------------------------------------------------------------------------------------------- epochs, checkpoints

    def _end_epoch(self) -> None:
        """The epoch's mean figures, and what its loss asks for."""
        self._figures = {f"simic.training.{name}": total / max(1, self._taken) for name, total in self._sums.items()}
        self._figures["simic.training.lr"] = self._rates.rate
        self._figures["simic.training.iterations"] = float(self.step)
        self._figures |= self.buffer.figures()
        self._watch(self._figures.get("simic.training.loss", math.inf))

    def _watch(self, loss: float) -> None:
        """Keep the state of an epoch whose loss has not risen; put it back after ten that have, at half the rate."""
        self._rising = self._rising + 1 if loss > self._epoch_loss else 0
        self._epoch_loss = loss
        if self._rising == 0:
            self._good = self.checkpoint()
        elif self._rising >= RISING_EPOCHS:
            step, restored = self.step, self.restored + 1
            self.restore(self._good)
            self.step, self.restored = step, restored
            self._rates.scale(LOWERED, "the loss rose for ten epochs")
            self._rising, self._epoch_loss = 0, math.inf

    def checkpoint(self) -> bytes:
        """All that decides how the training goes on: weights, optimiser, rates, priorities. Nothing is pickled."""
        tensors = {f"weights.{name}": each.detach() for name, each in self.network.state_dict().items()}
        state = self._rates.optimizer.state
        for name, parameter in self._parameters.items():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.get(parameter, {}).items()}
        items = list(self.buffer)
        tensors["priorities"] = torch.tensor([self.buffer.priority_of(each.key) for each in items], dtype=torch.float64)
        told = {
            "step": self.step,
            "rates": self._rates.state(),
            "settings": asdict(self.settings),
            "corpus": corpus_digest(items),
            "rising": self._rising,
            "epoch_loss": self._epoch_loss if math.isfinite(self._epoch_loss) else None,
            "restored": self.restored,
            "skipped": dict(self.progress.skipped),
            "steps": self.progress.steps,
            "figures": self._figures,
        }
        # Tensors of a buffer may share memory with each other; a file holds each by itself.
        copies = {name: each.clone().contiguous() for name, each in tensors.items()}
        return safetensors.torch.save(copies, {_METADATA: json.dumps(told, sort_keys=True)})

    def restore(self, content: bytes) -> None:
        """Go on from a checkpoint; InvalidInput for other settings or experience, CorruptState for no such file."""
        tensors, told = _read(content)
        items = list(self.buffer)
        for what, theirs, ours in (
            ("settings", told["settings"], json.loads(json.dumps(asdict(self.settings)))),
            ("experience", told["corpus"], corpus_digest(items)),
        ):
            if theirs != ours:
                raise InvalidInput(f"the checkpoint is of a training with other {what}; begin anew, without it")
        self.network.load_state_dict({name[8:]: each for name, each in tensors.items() if name.startswith("weights.")})
        optimizer = self._rates.optimizer
        for name, parameter in self._parameters.items():
            prefix = f"optimizer.{name}."
            held = {key[len(prefix) :]: each.clone() for key, each in tensors.items() if key.startswith(prefix)}
            if held:
                optimizer.state[parameter] = held
        self._rates.load_state(told["rates"])
        floor = self.buffer.settings.priority_floor
        self.buffer.reprioritise(items, [float(each) - floor for each in tensors["priorities"]])
        self.step, self.restored = int(told["step"]), int(told["restored"])
        self._rising = int(told["rising"])
        self._epoch_loss = math.inf if told["epoch_loss"] is None else float(told["epoch_loss"])
        self._figures = dict(told["figures"])
        self.progress.steps = int(told["steps"])
        self.progress.skipped = Counter(told["skipped"])


def corpus_digest(items: list[Experience]) -> str:
    """SHA-256, hexadecimal, over the keys of what is learnt from, in order: which decisions of which runs."""
    digest = hashlib.sha256()
    for each in items:
        digest.update(each.key[0] + each.key[1].encode() + b"\0")
    return digest.hexdigest()


def _read(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        length = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
        return safetensors.torch.load(content), told
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"the checkpoint of the training cannot be read: {error}; begin anew, without it") from None


def _number(seed: int, step: int, what: str) -> int:
    """The seed of one step's random numbers of one kind."""
    return int.from_bytes(hashlib.sha256(f"simic.{what}/{seed}/{step}".encode()).digest()[:7], "big")


def _generator(seed: int, step: int, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(_number(seed, step, what))
