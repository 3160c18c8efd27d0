"""What a trainer wants of the library and how far each request has come: asked for, answered, read, or refused.

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
"""The same for a version that is new in the catalogue: the library may need a moment to know of it, too."""
OVERDUE_S: Final = 2.0
"""The library has it, and it is not read by then: too late (R-URZA-10 asks half a second of a quiet library)."""


@dataclass(slots=True)
class _Request:
    wanted: Wanted
    pauses: list[float]
    due_at: float | None
    request_id: str = ""
    expected: Expected | None = None
    answered_at: float = 0.0
    refusal: Refusal | None = None
    held: bool = False
    is_new: bool = False
    """The catalogue has a new version that the library may not know of yet."""


class KernelRequests:
    """Requests by what is wanted, in the order in which they were made. What was read is in `kernels`."""

    def __init__(self, kernels: KernelCache, monotonic: MonotonicS) -> None:
        self.kernels = kernels
        self._monotonic = monotonic
        self._requests: dict[Wanted, _Request] = {}
        self._waiting: dict[str, _Request] = {}
        self._lock = threading.Lock()

    def add(self, wanted: Iterable[Wanted]) -> None:
        """Ask for these, each once."""
        with self._lock:
            for each in wanted:
                self._requests.setdefault(each, _Request(each, list(PAUSES_S), self._monotonic()))

    def kernel(self, wanted: Wanted) -> Kernel | Refusal | None:
        """The kernel, checked just now; why it cannot be used; None where it is not there. Never waits.

        What was not asked for before is from now on.
        """
        with self._lock:
            request = self._requests.get(wanted)
        if request is None:
            self.add([wanted])
            return None
        if request.refusal is not None or request.expected is None:
            return request.refusal
        held = self.kernels.in_memory(request.expected)
        if held is not None:
            if isinstance(held.kernel, Refusal):
                self.read(request.expected, held.kernel)
            return held.kernel
        if request.held:
            self._ask_again(request)  # it made room for others
        elif self._monotonic() - request.answered_at > OVERDUE_S:
            return Refusal("missing_artifact", f"{request.expected.artifact_ref} was not read within {OVERDUE_S:g} s")
        return None

    @property
    def settled(self) -> bool:
        """Whether every request was answered once, and what the library has was read or refused."""
        with self._lock:
            return all(
                request.request_id
                and request.request_id not in self._waiting
                and (request.expected is None or request.held or request.refusal is not None)
                for request in self._requests.values()
            )

    def due(self) -> list[Wanted]:
        """What is to be asked for now, in the order of `add`."""
        now = self._monotonic()
        with self._lock:
            return [
                request.wanted
                for request in self._requests.values()
                if request.due_at is not None and request.due_at <= now
            ]

    def asked(self, wanted: Wanted, request_id: str) -> None:
        """A request went out under this id; an answer to an earlier one counts no more."""
        with self._lock:
            request = self._requests[wanted]
            self._waiting.pop(request.request_id, None)
            request.request_id = request_id
            request.due_at = self._monotonic() + request.pauses.pop(0) if request.pauses else None
            self._waiting[request_id] = request

    def ready(self, answer: KernelArtifactReady) -> Expected | None:
        """What is to be read now; None for an answer that nobody waits for: to another request, or a second one."""
        with self._lock:
            request = self._waiting.pop(answer.request_id, None)
            if request is None or request.wanted.blueprint_id != answer.blueprint_id:
                return None
            request.expected = Expected.of_answer(answer, request.wanted.place)
            request.answered_at = self._monotonic()
            request.due_at, request.refusal, request.held, request.is_new = None, None, False, False
            return request.expected

    def failed(self, request_id: str, reason: str) -> None:
        """An error is the answer. What is not there, or could not be had just now, may come yet; the rest is final."""
        with self._lock:
            request = self._waiting.pop(request_id, None)
            if request is None:
                return
            if reason == "artifact_not_found":
                request.due_at = request.due_at if request.is_new else None
            elif reason == "missing_artifact" and request.due_at is None:
                request.refusal = Refusal("missing_artifact", "the library has it and could not hand it out")
            elif reason == "checksum_mismatch":
                request.refusal = Refusal("checksum_mismatch", "the library's copy failed a check")
                request.due_at = None

    def read(self, expected: Expected, result: Kernel | Refusal) -> None:
        """An artifact was read, or failed a check."""
        with self._lock:
            for request in self._requests.values():
                if request.expected == expected:
                    request.held = isinstance(result, Kernel)
                    request.refusal = result if isinstance(result, Refusal) else None

    def catalogued(self, blueprint_id: str) -> None:
        """The catalogue has a new version of a blueprint: what was wanted of it is asked for again."""
        with self._lock:
            for request in self._requests.values():
                if request.wanted.blueprint_id == blueprint_id:
                    request.is_new = True
                    request.pauses = list(NEWS_PAUSES_S[1:])
                    request.due_at = self._monotonic() + NEWS_PAUSES_S[0]

    def _ask_again(self, request: _Request) -> None:
        with self._lock:
            request.held, request.expected = False, None
            request.pauses, request.due_at = list(PAUSES_S), self._monotonic()
