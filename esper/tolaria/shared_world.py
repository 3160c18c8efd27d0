"""One run on several processes of `torch.distributed`: rank 0 has the world, and every rank gets what it answers.

All that a run does not compute from its own state comes through its `World`; so ranks that share the answers of one
world, and begin alike, come to the same state. Every method is a collective call: all ranks make it, in one order. What
rank 0's world raises is raised on every rank. The state of all ranks is compared at each digest; what may differ from
rank to rank (buffers such as BatchNorm's, random streams) is left out.

Ranks train the same seeds because the same commands reach them between the same two steps. PyTorch's DDP averages the
gradients of the parameters that it knew when it was made; those of seeds are averaged by `average`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import torch
from torch import distributed

from contracts.leyline.v1.event_pb2 import BreakerChanged, CommandRejected, GateEvaluated, LearningRateChanged
from contracts.topics import RUNS
from esper.errors import CorruptState
from esper.kasmina.commands import CommandRefused
from esper.kasmina.kernels import Unusable, Verified
from esper.leyline.envelope import Event, topic_of
from esper.tolaria.fork_change import ForkPlace
from esper.tolaria.guard import TrainerBreaker
from esper.tolaria.outside import Answer, Heard, Outside
from esper.tolaria.rank_streams import of_rank, streams_of, with_ranks
from esper.tolaria.state import Checkpoint, Digest, FlatState, Snapshot, digest
from esper.tolaria.world import NewFork, RecordedFork, Request, StartingPoint, World

_T = TypeVar("_T")
_USUAL: Final = 0
_TOLD: Final = 1


class SharedWorld:
    """The world of one rank. `world` is rank 0's; on the others it is one behind which nothing is kept.

    `own` names the tensors of a state that each rank has for itself, by the beginnings of their names.
    """

    def __init__(self, world: World, *, own: Collection[str] = ("random",)) -> None:
        self._world = world
        self._own = tuple(own)
        self.rank = distributed.get_rank()
        self._leads = self.rank == 0
        self._count = 0
        self._parted = self._asking = False
        self.incarnation = self._shared(lambda: world.incarnation)
        self.sequence = self._shared(lambda: world.sequence)
        start: StartingPoint | None = self._shared(lambda: world.start)
        self.start = None if start is None else replace(start, snapshot=of_rank(start.snapshot, self.rank))

    @property
    def outside(self) -> Outside:
        """This rank's own."""
        return self._world.outside

    @property
    def published(self) -> int:
        """How many events rank 0 put on the log, or this one would have."""
        return self._world.published if self._leads else self._count

    def _shared(self, ask: Callable[[], _T]) -> _T:
        """What `ask` comes to on rank 0, on every rank. The usual answers, which say nothing, cost one small message.

        Raises on every rank what it raises on rank 0.
        """
        if self._parted or self._asking:  # a breaker's success polls it: that question is a part of this one
            return ask() if self._leads else None  # type: ignore[return-value] # nobody looks at it any more
        told: tuple[Any, BaseException | None] = (None, None)
        own: Exception | None = None
        if self._leads:
            self._asking = True
            try:
                told = (ask(), None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for it
                own, told = error, (None, _portable(error))
            finally:
                self._asking = False
        unusual = told[1] is not None or not _is_usual(told[0])
        kind = torch.tensor([_TOLD if unusual else _USUAL])
        distributed.broadcast(kind, src=0)
        if int(kind) == _USUAL:
            return told[0]  # type: ignore[no-any-return] # None on the other ranks
        box = [told]
        distributed.broadcast_object_list(box, src=0)
        answer, raised = box[0]
        if own is not None:
            raise own
        if raised is not None:
            raise raised
        return answer  # type: ignore[no-any-return]

    def track(self, step: Callable[[], int]) -> None:
        """Each world its own."""
        self._world.track(step)

    # ------------------------------------------------------------------------------------------------ facts and objects

    def publish(self, event: Event) -> Event:
        """By rank 0. Every rank numbers a fact as rank 0 does.

        A run's end is told without the other ranks: the one that failed may be the only one that does.
        """
        self._count += 1
        self._parted |= event.HasField("run_finished")
        if self._parted or topic_of(event) is not RUNS:
            return self._world.publish(event) if self._leads else event
        published = self._shared(lambda: self._world.publish(event))
        self.sequence = published.sequence
        return published

    def flush(self) -> None:
        """By rank 0."""
        self._shared(self._world.flush)

    def put(self, content: bytes) -> str:
        """By rank 0."""
        return self._shared(lambda: self._world.put(content))

    def compare(self, found: Digest, flat: FlatState) -> None:
        """The ranks with each other, and rank 0 with the record. Raises CorruptState where a rank differs."""
        self._agree(flat)
        self._shared(lambda: self._world.compare(found, flat))

    def compare_start(self, found: Digest, flat: FlatState) -> None:
        """As `compare`."""
        self._agree(flat)
        self._shared(lambda: self._world.compare_start(found, flat))

    def _agree(self, flat: FlatState) -> None:
        common = {name: tensor for name, tensor in flat.tensors.items() if not name.startswith(self._own)}
        mine = digest(FlatState(common, {}))
        roots: list[bytes] = [b""] * distributed.get_world_size()
        distributed.all_gather_object(roots, mine.root)
        others = [rank for rank, root in enumerate(roots) if root != roots[0]]
        if others:
            named: list[dict[str, str]] = [{}] * len(roots)
            distributed.all_gather_object(named, mine.parts)
            rank = others[0]
            tensors = sorted({*named[0], *named[rank]})
            first = next(name for name in tensors if named[0].get(name) != named[rank].get(name))
            raise CorruptState(
                f"rank {rank} is no longer in the state of rank 0: its {first} differs; every rank must begin with the "
                "same weights and take the same steps (torch.manual_seed, drop_last, no early break on one rank)"
            )

    # ------------------------------------------------------------------------------------- what other processes decide

    def eventful(self) -> bool:
        """As rank 0's."""
        return self._shared(self._world.eventful) or False

    def ending(self) -> tuple[str, str] | None:
        """As rank 0's."""
        return self._shared(self._world.ending)

    def at_target_step(self) -> bool:
        """As rank 0's."""
        return self._shared(self._world.at_target_step) or False

    def fork_at(self, place: ForkPlace) -> RecordedFork | NewFork | None:
        """As rank 0's."""
        return self._shared(lambda: self._world.fork_at(place))

    def commands(self) -> Iterable[Request]:
        """Those that reached rank 0."""
        return self._shared(lambda: list(self._world.commands())) or ()

    def emergencies(self) -> Sequence[Heard]:
        """Those that rank 0 heard."""
        return self._shared(lambda: list(self._world.emergencies())) or ()

    def await_command(self, timeout_s: float) -> None:
        """By rank 0; the others wait for it."""
        self._shared(lambda: self._world.await_command(timeout_s))

    def answer(self, packet_id: bytes, timeout_s: float | None) -> Answer | None:
        """The answer to rank 0's packet."""
        return self._shared(lambda: self._world.answer(packet_id, timeout_s))

    def command_of(self, answer: Answer, now_ns: int) -> Iterable[Request]:
        """As rank 0 judges it."""
        return self._shared(lambda: list(self._world.command_of(answer, now_ns))) or ()

    def refused(self, event: Event, refusal: CommandRefused) -> CommandRejected:
        """As rank 0's."""
        return self._shared(lambda: self._world.refused(event, refusal))

    # ----------------------------------------------------------------------- what depends on a clock or on this machine

    def trouble(self, found: str) -> str:
        """What any rank found, the lowest first: a step that one must not take none takes."""
        bad = torch.tensor([int(bool(found))])
        distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        if int(bad):
            every: list[str] = [""] * distributed.get_world_size()
            distributed.all_gather_object(every, found)
            found = next(each for each in every if each)
        return self._shared(lambda: self._world.trouble(found)) or ""

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """As rank 0's."""
        return self._shared(lambda: self._world.verdict(found))

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """As rank 0's."""
        return self._shared(lambda: self._world.opened(found)) or {}

    def breaker_changes(
        self, breaker: TrainerBreaker, find: Callable[[], list[BreakerChanged]], *, failure: bool = False
    ) -> list[BreakerChanged]:
        """As rank 0's; the breaker of another rank follows."""
        changes = self._shared(lambda: self._world.breaker_changes(breaker, find, failure=failure)) or []
        if not self._leads:
            for change in changes:
                breaker.force(change.to_state, change.reason)
        return changes

    def rates_undone(self, found: list[LearningRateChanged]) -> list[LearningRateChanged]:
        """As rank 0's."""
        return self._shared(lambda: self._world.rates_undone(found)) or []

    def hook_ms(self, found: float) -> float:
        """Rank 0's time."""
        return self._shared(lambda: self._world.hook_ms(found))

    # ----------------------------------------------------------------------------------------------- kernels and states

    def kernel(self, _seed_id: str, _find: Callable[[], Verified | Unusable | None]) -> Verified | Unusable | None:
        """None: seeds of several ranks run without compiled kernels."""
        return None

    def swaps(self) -> Sequence[Event]:
        """None."""
        return ()

    def library(self) -> None:
        """None."""
        return

    def save_checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        """By rank 0, with what is each other rank's own."""
        whole = self._with_ranks(snapshot)
        return self._shared(lambda: self._world.save_checkpoint(whole))

    def surplus(self, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """As rank 0's."""
        return self._shared(lambda: list(self._world.surplus(found))) or ()

    def delete_checkpoint(self, saved: Checkpoint) -> int:
        """By rank 0."""
        return self._shared(lambda: self._world.delete_checkpoint(saved)) or 0

    def remember(self, snapshot: Snapshot) -> None:
        """By rank 0's world, with what is each other rank's own."""
        whole = self._with_ranks(snapshot)
        if self._leads:
            self._world.remember(whole)

    def _with_ranks(self, snapshot: Snapshot) -> Snapshot:
        """Rank 0's state with the other ranks' random streams, where those are elsewhere than its own."""
        if self._parted:
            return snapshot
        every: list[FlatState | None] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, streams_of(snapshot.flat))
        return with_ranks(snapshot, [each for each in every if each is not None])

    def rewinds(self, found: bool) -> bool:  # noqa: FBT001
        """As rank 0's."""
        return self._shared(lambda: self._world.rewinds(found)) or False

    def rollback_target(self) -> tuple[str, Snapshot] | None:
        """As rank 0's, with this rank's own streams."""
        target = self._shared(self._world.rollback_target)
        return None if target is None else (target[0], of_rank(target[1], self.rank))


def _is_usual(answer: object) -> bool:
    """Whether an answer says nothing, so that its kind is enough: each method puts its own empty value for it."""
    return answer is None or answer is False or (isinstance(answer, list | dict | tuple | str) and not answer)


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, just made
    except Exception:  # noqa: BLE001 - an error may refuse it in any way
        return CorruptState(f"rank 0: {type(error).__name__}: {error}")
    return error


def alike(modules: Iterable[torch.nn.Module]) -> None:
    """Give every rank the buffers that rank 0 has, such as running statistics, so that all judge the same network."""
    for module in modules:
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


def average(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace the gradients of parameters that DDP does not know by their mean over the ranks, all in one message.

    Every rank must give the same parameters, and have a gradient for the same of them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joined)
    joined /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(joined, [each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
