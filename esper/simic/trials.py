"""Whole runs of two policies on the same seeds: what the gates judge a candidate by.

What counts is what runs come to, so a candidate decides a run from its first epoch to its last, and the live policy the
same run: same seed, same data, same budget. The runs are trained here and not kept; the test set is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from contracts.leyline.v1.event_pb2 import PolicyPromoted, PolicyRejected
from esper.errors import Interrupted, InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.simic.experience import Experience
from esper.simic.gates import Evidence, Paired
from esper.simic.rollouts import Lived, Rollouts
from esper.simic.trainer import Trained
from esper.simic.utility import PRICE, Ending, utility
from esper.tamiyo import weights
from esper.tamiyo.serving import LEARNED, Serving
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from esper.tolaria.tasks import load_task


def serving_of(content: bytes, objects: ObjectStore) -> Serving:
    """A `Serving` whose one learned policy has these weights, which are put into `objects`."""
    serving = Serving(objects, process="trials")
    promoted = Event(policy_promoted=PolicyPromoted(weights_ref=objects.put(content)))
    promoted.policy_promoted.policy_version = weights.load(content).version
    answer = serving.promote(promoted)
    if isinstance(answer, PolicyRejected):
        raise InvalidInput(f"the policy cannot be served: {answer.reason}")
    return serving


@dataclass(slots=True)
class Trials:
    """Runs of `configs` by each policy that is judged, each policy's once; `tell` is called after each run.

    `corpus` and `observations` are the decisions that a candidate is tried on beside.
    """

    configs: Sequence[RunConfig]
    clock: Clock
    corpus: Sequence[Experience] = ()
    observations: Sequence[bytes] = ()
    price: float = PRICE
    against: str = "none"
    """Which policy decides where none is live."""

    stop: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda _what: None
    _endings: dict[bytes | str, list[Ending]] = field(default_factory=dict)

    def evaluate(self, candidate: bytes, live: bytes | None, trained: Trained) -> Evidence:
        """What the gates ask for; raises Interrupted where `stop` said so before a run."""
        controls = self._runs("none")
        new, old = self._runs(candidate), self._runs(self.against if live is None else live)
        names = [f"{config.task} {config.seed}" for config in self.configs]
        worth = [
            [utility(end, control.training_flops, self.price) for end, control in zip(ends, controls, strict=True)]
            for ends in (new, old)
        ]
        completed = [[float(end.status == "completed") for end in ends] for ends in (new, old)]
        losses = [[end.loss for end in ends] for ends in (new, old)]

        def paired(name: str, both: Sequence[Sequence[float]], *, higher: bool) -> Paired:
            return Paired(name, both[0], both[1], higher_is_better=higher, cluster=names)

        return Evidence(
            utility=paired("utility", worth, higher=True),
            measures=[paired("completed runs", completed, higher=True), paired("probe loss", losses, higher=False)],
            training=trained.figures,
            corpus=self.corpus,
            observations=self.observations,
        )

    def _runs(self, policy: bytes | str) -> list[Ending]:
        """What each configuration came to under these weights, or under the policy of that name."""
        if policy not in self._endings:
            self._endings[policy] = [self._run(config, policy).ending for config in self.configs]
        return self._endings[policy]

    def _run(self, config: RunConfig, policy: bytes | str) -> Lived:
        if self.stop():
            raise Interrupted("judging was interrupted; nothing was published, and the same command begins it anew")
        with TemporaryDirectory(prefix="esper-trials-") as folder:
            objects = ObjectStore(Path(folder))
            serving = serving_of(policy, objects) if isinstance(policy, bytes) else None
            name = LEARNED if isinstance(policy, bytes) else policy
            rollouts = Rollouts(load_task(config.task), objects, self.clock, serving=serving)
            lived = rollouts.live(replace(config, policy=name), "trial")  # type: ignore[arg-type] # it is checked
        self.tell(f"{config.task} seed {config.seed}")
        return lived
