"""Builders of compile jobs and their events; every event is what the forge itself would say."""

from __future__ import annotations

import pytest

from contracts.leyline.v1 import leyline_pb2
from esper.tezzeret import events
from esper.tezzeret.jobs import Place, evolve, request
from esper.tezzeret.results import Artifact, Prewarm, Report, guard_digest

GUARD = ({"index": 0, "role": "input", "shape": ["batch", 8], "dtype": "float32", "stride": [8, 1]},)
FIRST = Place(1, 0, 0)
NORMAL = leyline_pb2.MESSAGE_PRIORITY_NORMAL


class Story:
    """Tells the events of one job and folds them."""

    def __init__(self, blueprint_id="BP009", *, pipeline="standard", priority=NORMAL, place=FIRST, size=8):
        self.body = request(blueprint_id, "vector", [size], {"depth": 1.0}, pipeline)
        self.asked = events.requested(self.body, 1, producer="test", priority=priority)
        self.place = place
        self.job = evolve(None, self.asked, place)

    def fold(self, *told):
        for event in told:
            self.job = evolve(self.job, event, self.place)
        return self.job

    def started(self, attempt=1):
        return events.started(self.job, attempt, "standard", 2)

    def failed(self, attempt=1, *, will_retry=True):
        return events.failed(self.job, attempt, "it broke", 3, will_retry=will_retry)

    def parked(self, attempt=1):
        return events.parked(self.job, attempt, "it broke", 4)

    def artifact(self, attempt=1, mark="a"):
        report = Report(
            job_id=self.job.job_id,
            blueprint_id=self.job.blueprint_id,
            shape_kind="vector",
            shape=(8,),
            parameters={"depth": 1.0},
            pipeline="standard",
            attempt=attempt,
            form="eager",
            eager_fallback=False,
            reason="eager is faster",
            guard=GUARD,
            guard_digest=guard_digest(GUARD),
            eager_us=100.0,
            compiled_us=120.0,
            compile_ms=900.0,
            max_difference=0.0,
            prewarm=(Prewarm(16, 0.1, 0.2, 20), Prewarm(64, 0.3, 0.4, 20)),
            toolchain={"torch": "2.13.0"},
        )
        return Artifact(f"sha256:{mark * 64}", report, f"sha256:{'b' * 64}", "", 1_000)

    def finished(self, attempt=1):
        return events.finished(self.job, self.artifact(attempt), 5)

    def published(self, version=1):
        return events.published(self.job, self.artifact(self.job.attempt), version, 6)

    def asked_again(self):
        return events.requested(self.body, 9, producer="test", attempts_made=self.job.attempt)


@pytest.fixture
def story():
    return Story()


@pytest.fixture(scope="session")
def stories():
    return Story
