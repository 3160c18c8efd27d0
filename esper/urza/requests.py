"""What a trainer wants of the library and how far each wish has come: asked for, answered, read, or refused.

    wanted ─► asked ─► ready ─► (its artifact is read into the kernels)
                │  └──► not there     asked again when the catalogue has news of the blueprint
                └─────► refused       a check failed, or the artifact could not be had in several attempts

Safe for two threads: the training loop looks up, the log's thread brings news. It knows no log; times are seconds of
the monotonic clock that it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.leyline_pb2 import KernelArtifactReady
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.cache import KernelCache
from esper.urza.library import Wanted
from esper.urza.version import MonotonicS

PAUSES_S: Final = (2.0, 8.0, 30.0)
"""A request without an answer, or one that could not be served just then, is made again after each of these."""
NEWS_PAUSES_S: Final = (0.3, 1.0, 4.0)
"""What the catalogue has news of: the library may need a moment to know of it, too."""
OVERDUE_S: Final = 2.0
"""The library has it, and it is not read by then: too late (R-URZA-10 asks half a second of a quiet library)."""


@dataclass(slots=True)
class _Wish:
    wanted: Wanted
    pauses: list[float]
    due_at: float | None
    request_id: str = ""
    expected: Expected | None = None
    answered_at: float = 0.0
    refusal: Refusal | None = None
    held: bool = False
    news: bool = False
    """The catalogue told of a new version that the library may not know of yet."""


class KernelRequests:
    """Wishes by what is wanted, in the order in which they were made. `kernels` keeps what was read."""

    def __init__(self, kernels: KernelCache, monotonic: MonotonicS) -> None:
        self.kernels = kernels
        self._monotonic = monotonic
        self._wishes: dict[Wanted, _Wish] = {}
        self._by_request: dict[str, _Wish] = {}
        self._lock = threading.Lock()

    def add(self, wanted: Iterable[Wanted]) -> None:
        """Want these, each once."""
        with self._lock:
            for each in wanted:
                self._wishes.setdefault(each, _Wish(each, list(PAUSES_S), self._monotonic()))

    def take(self, wanted: Wanted) -> Kernel | Refusal | None:
        """The kernel, checked just now; why it cannot be used; None where it is not there. Never waits.

        What was not wanted before is from now on.
        """
        with self._lock:
            wish = self._wishes.get(wanted)
        if wish is None:
            self.add([wanted])
            return None
        if wish.refusal is not None or wish.expected is None:
            return wish.refusal
        held = self.kernels.in_memory(wish.expected)
        if held is not None:
            if isinstance(held.kernel, Refusal):
                self.read(wish.expected, held.kernel)
            return held.kernel
        if wish.held:
            self._ask_again(wish)  # it made room for others
        elif self._monotonic() - wish.answered_at > OVERDUE_S:
            return Refusal("missing_artifact", f"{wish.expected.artifact_ref} was not read within {OVERDUE_S:g} s")
        return None

    @property
    def settled(self) -> bool:
        """Whether every wish was answered once, and what the library has was read or refused."""
        with self._lock:
            return all(
                wish.request_id
                and wish.request_id not in self._by_request
                and (wish.expected is None or wish.held or wish.refusal is not None)
                for wish in self._wishes.values()
            )

    def due(self) -> list[Wanted]:
        """What is to be asked for now, in order of wishes."""
        now = self._monotonic()
        with self._lock:
            return [wish.wanted for wish in self._wishes.values() if wish.due_at is not None and wish.due_at <= now]

    def asked(self, wanted: Wanted, request_id: str) -> None:
        """A request went out under this id; an answer to an earlier one counts no more."""
        with self._lock:
            wish = self._wishes[wanted]
            self._by_request.pop(wish.request_id, None)
            wish.request_id = request_id
            wish.due_at = self._monotonic() + wish.pauses.pop(0) if wish.pauses else None
            self._by_request[request_id] = wish

    def ready(self, answer: KernelArtifactReady) -> Expected | None:
        """What is to be read now; None for an answer that nobody waits for: to another request, or a second one."""
        with self._lock:
            wish = self._by_request.pop(answer.request_id, None)
            if wish is None or wish.wanted.blueprint_id != answer.blueprint_id:
                return None
            wish.expected = Expected.of_answer(answer, wish.wanted.place)
            wish.answered_at = self._monotonic()
            wish.due_at, wish.refusal, wish.held, wish.news = None, None, False, False
            return wish.expected

    def failed(self, request_id: str, reason: str) -> None:
        """An error is the answer. What is not there, or could not be had just now, may come yet; the rest is final."""
        with self._lock:
            wish = self._by_request.pop(request_id, None)
            if wish is None:
                return
            if reason == "artifact_not_found":
                wish.due_at = wish.due_at if wish.news else None
            elif reason == "missing_artifact" and wish.due_at is None:
                wish.refusal = Refusal("missing_artifact", "the library has it and could not hand it out")
            elif reason == "checksum_mismatch":
                wish.refusal = Refusal("checksum_mismatch", "the library's copy failed a check")
                wish.due_at = None

    def read(self, expected: Expected, result: Kernel | Refusal) -> None:
        """An artifact was read, or failed a check."""
        with self._lock:
            for wish in self._wishes.values():
                if wish.expected == expected:
                    wish.held = isinstance(result, Kernel)
                    wish.refusal = result if isinstance(result, Refusal) else None

    def catalogued(self, blueprint_id: str) -> None:
        """The catalogue has a new version of a blueprint: what was wanted of it is asked for again."""
        with self._lock:
            for wish in self._wishes.values():
                if wish.wanted.blueprint_id == blueprint_id:
                    wish.news = True
                    wish.pauses = list(NEWS_PAUSES_S[1:])
                    wish.due_at = self._monotonic() + NEWS_PAUSES_S[0]

    def _ask_again(self, wish: _Wish) -> None:
        with self._lock:
            wish.held, wish.expected = False, None
            wish.pauses, wish.due_at = list(PAUSES_S), self._monotonic()
