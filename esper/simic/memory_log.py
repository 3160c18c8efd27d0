"""A log in memory that answers with Tamiyo in process: what a rollout runs on that nobody looks at afterwards."""

from __future__ import annotations

from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.record import Recorded
from esper.tamiyo.answer import answer
from esper.tamiyo.serving import Serving
from esper.tolaria.outside import Answer, Clock


class MemoryLog:
    """`esper.tolaria.outside.Log`: keeps its events in the order in which they were written, and answers packets.

    `requests` are the decisions and commands among them, as they would have been signed: there is nobody to sign for.
    """

    def __init__(self, clock: Clock, objects: ObjectStore, serving: Serving | None = None) -> None:
        self.events: list[Event] = []
        self.requests: list[tuple[Event, Signed]] = []
        self._clock = clock
        self._objects = objects
        self._serving = serving
        self._packet = Event()

    def publish(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)
        name = body_name(event)
        if name == "epoch_completed":
            self._packet = event
        elif name == "adaptation_command":  # a fork's own
            self._ask(event)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return at once."""

    def claim(self, event: Event) -> None:
        """Keep the claim; there is one process alone."""
        self.events.append(event)

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:  # noqa: ARG002 - it never waits
        """Tamiyo's answer to the packet that was published last."""
        now_ns, monotonic = self._clock.wall_ns(), self._clock.monotonic
        found = answer(self._packet, now_ns=now_ns, monotonic=monotonic, serving=self._serving)
        for content in found.objects:
            self._objects.put(content)
        self.events += found.events
        asked = {
            name: self._ask(each)
            for each in found.events
            if (name := body_name(each)) in ("decision_made", "adaptation_command")
        }
        return Answer(asked["decision_made"], asked.get("adaptation_command"))

    def take_commands(self) -> list[Signed]:
        """Nobody sends any."""
        return []

    def await_command(self, timeout_s: float) -> None:
        """Return at once: none will ever come."""

    def shed(self) -> int:
        """Nothing is ever shed."""
        return 0

    def recorded(self, run_id: str) -> Recorded:
        """The run as its record has it, to be forked."""
        return Recorded.of(run_id, (event for event in self.events if event.sequence), self.requests)

    def _ask(self, event: Event) -> Signed:
        signed = Signed(event.SerializeToString(deterministic=True))
        self.requests.append((event, signed))
        return signed
