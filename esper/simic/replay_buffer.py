"""The replay buffer: experience in bounds of number, memory and age, drawn by priority.

An item and its priority are one record, so no eviction can part them. Age is counted in promoted policies, never in
hours (ruling 34). Source of the draw: Schaul et al., "Prioritized experience replay", 2015 (arXiv 1511.05952).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from esper.errors import InvalidInput
from esper.simic.experience import Experience

Key = tuple[bytes, str]
GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """Bounds and the exponents of the draw; the defaults are those of R-SIM-5 to R-SIM-10.

    `generations` is how many promotions an experience outlives. `memory_bytes` is of the tensors alone.
    """

    capacity: int = 100_000
    minimum: int = 1_000
    memory_bytes: int = 6 * GIB
    generations: int = 4
    priority_exponent: float = 0.6
    weight_exponent: float = 0.4
    priority_floor: float = 0.01

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.memory_bytes < 1 or not 0 < self.minimum <= self.capacity:
            raise InvalidInput(
                f"a replay buffer needs capacity and memory of 1 at least and a minimum from 1 to its capacity, not "
                f"capacity={self.capacity} memory_bytes={self.memory_bytes} minimum={self.minimum}"
            )


@dataclass(slots=True)
class _Slot:
    experience: Experience
    priority: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some experiences, and the weight (count) that makes up for having drawn them by priority: 1 at most."""

    experiences: Sequence[Experience]
    weights: Tensor


class ReplayBuffer:
    """Experiences by their keys, oldest first. `removed` counts what left, by reason; `repeated` what came again."""

    def __init__(self, settings: BufferSettings | None = None) -> None:
        self.settings = settings or BufferSettings()
        self.removed: Counter[str] = Counter()
        self.repeated = 0
        self.nbytes = 0
        self.generation = 0
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()  # a dict's first key costs what was removed before it
        self._largest = 1.0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Experience]:
        return (slot.experience for slot in self._slots.values())

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    @property
    def largest_priority(self) -> float:
        """What a new experience gets: the largest that any has had."""
        return self._largest

    def store(self, experience: Experience) -> bool:
        """Whether it was stored: not where its key is here already, it has expired, or it alone exceeds the memory."""
        key, nbytes = experience.key, experience.nbytes
        if key in self._slots:
            self.repeated += 1
            return False
        if self._expired(experience) or nbytes > self.settings.memory_bytes:
            self.removed["expired" if self._expired(experience) else "too large"] += 1
            return False
        while len(self._slots) >= self.settings.capacity:
            self._remove_oldest(1, "capacity")
        # R-SIM-7: from nine tenths of the memory on a tenth of all goes at once, so that it is not asked every time.
        while self._slots and self.nbytes + nbytes > 0.9 * self.settings.memory_bytes:
            self._remove_oldest(max(1, len(self._slots) // 10), "memory")
        self._slots[key] = _Slot(experience, self._largest, nbytes)
        self.nbytes += nbytes
        return True

    def advance(self, generation: int) -> int:
        """Say how many policies have been promoted; removes what has outlived them, and returns how much that was."""
        self.generation = max(generation, self.generation)
        old = [key for key, slot in self._slots.items() if self._expired(slot.experience)]
        for key in old:
            self._remove(key, "expired")
        return len(old)

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        *,
        factors: Tensor | None = None,
        conservative: bool = False,
    ) -> Drawn:
        """`count` experiences, none twice, each as likely as its priority to the power of the exponent.

        `factors` (items, in the buffer's order) multiply the chances, as a curriculum does; the weights do not make up
        for that. In conservative mode half as many come, all equally likely. Raises InvalidInput below the minimum.
        """
        if len(self) < self.settings.minimum:
            raise InvalidInput(
                f"insufficient data: {len(self)} experiences, and nothing is drawn below {self.settings.minimum}"
            )
        slots = list(self._slots.values())
        count = min(max(1, count // 2) if conservative else count, len(slots))
        exponent = 0.0 if conservative else self.settings.priority_exponent
        priorities = torch.tensor([slot.priority for slot in slots], dtype=torch.float64) ** exponent
        chances = priorities / priorities.sum()
        weighed = chances if factors is None else chances * factors
        # The largest of log p + Gumbel noise are a draw without putting back (Efraimidis and Spirakis, 2006).
        noise = -torch.log(-torch.log(torch.rand(len(slots), generator=generator, dtype=torch.float64)))
        rows = torch.topk(weighed.log() + noise, count).indices
        weights = (len(slots) * chances[rows]) ** -self.settings.weight_exponent
        return Drawn([slots[row].experience for row in rows.tolist()], (weights / weights.max()).float())

    def reprioritise(self, experiences: Iterable[Experience], errors: Iterable[float]) -> None:
        """Priorities from the errors of predictions (their size, plus the floor); what has left is passed over."""
        for experience, error in zip(experiences, errors, strict=True):
            slot = self._slots.get(experience.key)
            if slot is not None:
                slot.priority = abs(error) + self.settings.priority_floor
                self._largest = max(self._largest, slot.priority)

    def priority_of(self, key: Key) -> float:
        """The priority of what is stored under `key`; raises InvalidInput where nothing is."""
        slot = self._slots.get(key)
        if slot is None:
            raise InvalidInput(f"the replay buffer has no experience {key[0].hex()} of run {key[1]}")
        return slot.priority

    def figures(self) -> dict[str, float]:
        """Size, memory and what was removed, by the names of policy sheet 2.8."""
        return {
            "simic.buffer.size": float(len(self)),
            "simic.buffer.memory_mb": self.nbytes / 2**20,
            "simic.buffer.expired_removed": float(self.removed["expired"]),
            "simic.buffer.evicted": float(self.removed["capacity"] + self.removed["memory"]),
            "simic.buffer.priority_max": self._largest,
        }

    def _expired(self, experience: Experience) -> bool:
        return self.generation - experience.generation > self.settings.generations

    def _remove_oldest(self, count: int, why: str) -> None:
        for key in list(islice(self._slots, count)):
            self._remove(key, why)

    def _remove(self, key: Key, why: str) -> None:
        self.nbytes -= self._slots.pop(key).nbytes
        self.removed[why] += 1
