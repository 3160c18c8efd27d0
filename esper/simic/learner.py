"""One round of learning: experience in, a training, the gates, and the events that say so. It knows no log.

The round is the same wherever it runs: in `esper learn`, in a test, in the demonstration. What it publishes it returns;
who called it signs that and waits for the log, in this order, so that nothing is offered that the log does not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from esper.errors import Interrupted
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.simic import publication
from esper.simic.experience import Experience
from esper.simic.gates import Evidence, GateSettings, Verdict, validate
from esper.simic.health import MOST_BYTES, Breakers, conservative, health, telemetry
from esper.simic.intake import Taken, take_rows
from esper.simic.replay_buffer import GIB, BufferSettings, ReplayBuffer
from esper.simic.trainer import Told, Trained, Trainer, TrainingSettings, corpus_digest
from esper.simic.versions import Change, Versions, next_version
from esper.tamiyo import weights
from esper.tamiyo.network import TamiyoNet, make

Evaluate = Callable[[bytes, bytes | None, Trained], Evidence]
"""From a candidate's weights, the live policy's (None where it has none) and the training, what the gates judge by."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A round: what to publish in this order, the weights, what the gates said."""

    events: list[Event]
    weights: bytes
    version: str
    trained: Trained
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a learner keeps experience, trains and judges; `price` is that of the utility."""

    training: TrainingSettings = field(default_factory=TrainingSettings)
    buffer: BufferSettings = field(default_factory=BufferSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    price: float = 0.03
    preset: str = "small"


class Learner:
    """Keeps experience and learns from it. For one thread; `memory_bytes` says what the process holds."""

    def __init__(
        self,
        objects: ObjectStore,
        ring: KeyRing,
        settings: LearnerSettings,
        *,
        monotonic: Callable[[], float],
        now_ns: Callable[[], int],
        memory_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.settings = settings
        self.buffer = ReplayBuffer(settings.buffer)
        self.breakers = Breakers(monotonic)
        self._objects = objects
        self._ring = ring
        self._monotonic = monotonic
        self._now_ns = now_ns
        self._memory_bytes = memory_bytes
        self._restored = 0

    def take(self, rows: Iterable[Mapping[str, Any]], versions: Versions) -> Taken:
        """Experience out of the rows of the view `experience`; what is here already is passed over."""
        with self.breakers.guard("processing"):
            taken = take_rows(
                rows,
                self._objects,
                price=self.settings.price,
                sizes=make(self.settings.preset).settings.sizes,
                generation=lambda _policy, version: versions.generation(version),
            )
        self.store(taken.experiences, versions)
        return taken

    def store(self, experiences: Iterable[Experience], versions: Versions) -> int:
        """How many of these are new; what has outlived its promotions goes."""
        with self.breakers.guard("storage"):
            self.buffer.advance(len(versions.history))
            return sum(self.buffer.store(each) for each in experiences)

    def learn(
        self,
        versions: Versions,
        evaluate: Evaluate,
        *,
        change: Change = "training",
        command: str = "",
        progress: Callable[[Told], None] = lambda _told: None,
        save: Callable[[bytes], None] = lambda _state: None,
        resume: bytes | None = None,
    ) -> Learnt:
        """Train from the live policy's weights, or new ones, and have the gates judge; the events in their order.

        The same experience, settings and live policy give the same weights, and under them the same events. Raises
        InvalidInput where there is too little experience (`insufficient data`) or a breaker is open, Interrupted where
        the process comes to hold too much memory.
        """
        live = versions.by_name.get(versions.live)
        content = None if live is None else self._objects.get(live.weights_ref)
        training = self.settings.training
        if conservative(self.breakers, self.buffer, restored=self._restored):
            training = replace(training, conservative=True, rate=training.rate / 2)
        network = self._network(content, training.seed)
        trainer = Trainer(
            network,
            self.buffer,
            training,
            monotonic=self._monotonic,
            reference=None if content is None or training.method != "ppo" else weights.load(content).network,
        )
        if resume is not None:
            trainer.restore(resume)

        def tell(told: Told) -> None:
            progress(told)
            self._within_memory()

        with self.breakers.guard("training"):
            trained = trainer.train(tell, save)
        self._restored = trained.restored
        version = next_version(versions, change)
        provenance = self._provenance(training, "" if live is None else live.version, command)
        candidate = weights.save(network, version, provenance)
        verdict = validate(
            candidate,
            content,
            evaluate(candidate, content, trained),
            ring=self._ring,
            settings=self.settings.gates,
            monotonic=self._monotonic,
        )
        learnt = Learnt([], candidate, version, trained, verdict)
        return replace(learnt, events=self._events(learnt, provenance, versions))

    def _within_memory(self) -> None:
        """Raise Interrupted where the process holds more than it may (R-SIM-47); the epoch's checkpoint is saved."""
        held = self._memory_bytes()
        if held >= MOST_BYTES:
            raise Interrupted(
                f"the training holds {held / GIB:.1f} GiB of memory and may hold {MOST_BYTES / GIB:.0f}; it stops "
                "after this epoch, and with less experience or a smaller batch it goes on"
            )

    def _network(self, content: bytes | None, seed: int) -> TamiyoNet:
        return make(self.settings.preset, seed) if content is None else weights.load(content).network

    def _provenance(self, training: TrainingSettings, parent: str, command: str) -> dict[str, str]:
        """What these weights were made of, so that they can be made again."""
        items = list(self.buffer)
        return {
            "method": training.method,
            "settings": str(asdict(training)),
            "seed": str(training.seed),
            "corpus": f"sha256:{corpus_digest(items)}",
            "runs": str(len({each.provenance.run_id for each in items})),
            "tasks": ", ".join(sorted({each.provenance.task for each in items})),
            "parent": parent,
            "command": command,
        }

    def _events(self, learnt: Learnt, provenance: Mapping[str, str], versions: Versions) -> list[Event]:
        now_ns = self._now_ns()
        live = versions.by_name.get(versions.live)
        trained, verdict = learnt.trained, learnt.verdict
        with self.breakers.guard("publication"):
            first = publication.trained(
                learnt.weights,
                learnt.version,
                self._objects,
                experiences=len(self.buffer),
                metrics=trained.figures,
                provenance=provenance,
                now_ns=now_ns,
            )
            against = "" if live is None else live.weights_ref
            events = [first, *publication.judged(first, verdict, against_ref=against, now_ns=now_ns)]
            if verdict.passed:
                metadata = weights.metadata(learnt.weights)
                events.append(publication.offered(first, events[1], metadata, now_ns=now_ns))
        return [*events, self.report(trained.figures, versions, now_ns=now_ns, cause=events[1], verdict=verdict)]

    def report(
        self,
        figures: Mapping[str, float],
        versions: Versions,
        *,
        now_ns: int,
        cause: Event | None = None,
        verdict: Verdict | None = None,
    ) -> Event:
        """Simic's telemetry: its figures, its health, and why the gates did not let a policy pass."""
        passed = [each.state != "rejected" for each in versions.by_name.values() if each.gates]
        found = health(self.breakers, self.buffer, figures, memory_bytes=self._memory_bytes(), passed=passed)
        if verdict is not None:
            passing = {**found.figures, "simic.validation.pass": float(verdict.passed)}
            found = replace(found, figures=passing)
        began = b"" if cause is None else cause.event_id
        event_id = ids.derived_id(began or hashlib.sha256(str(now_ns).encode()).digest()[:16], "simic.telemetry")
        reason = "" if verdict is None or verdict.passed else verdict.reason
        packet = telemetry(found, packet_id=ids.text(event_id), now_ns=now_ns, rejected=reason)
        return new_event(
            packet,
            event_id=event_id,
            run_id="",
            producer=publication.PRODUCER,
            recorded_at_ns=now_ns,
            causation_id=began,
        )
