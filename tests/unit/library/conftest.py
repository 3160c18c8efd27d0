"""Made-up news of blueprints, as signed records of the two topics that the library is folded from."""

from __future__ import annotations

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as lp
from esper.leyline import ids
from esper.leyline.envelope import new_event, topic_of
from esper.leyline.signing import KeyRing
from projections.library import Library
from projections.records import StoredRecord

RING = KeyRing((b"k" * 32,))


class News:
    """A log: `say` puts a body on it. A blueprint's events share a partition, as their key has it."""

    def __init__(self):
        self.records: list[StoredRecord] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._made = 0

    def say(self, body, *, blueprint="BP009", event=None, ring=RING):
        if event is None:
            event = new_event(
                body,
                event_id=ids.derived_id(b"news", "say", self._made),
                run_id="run",
                producer="tezzeret",
                recorded_at_ns=1,
            )
            self._made += 1
        payload = event.SerializeToString(deterministic=True)
        signed = ring.sign(payload)
        headers = (("esper-key", signed.key_id.encode()), ("esper-signature", signed.signature))
        place = (topic_of(event).name, sum(blueprint.encode()) % 2)
        offset = self._ends.get(place, 0)
        self._ends[place] = offset + 1
        record = StoredRecord(*place, offset, 1_000 + offset, blueprint.encode(), payload, headers)
        self.records.append(record)
        return event

    def registered(self, blueprint="BP009", **changes):
        fields = {"blueprint_id": blueprint, "name": blueprint.lower(), "tier": 1, "risk": 0.25, "stage": 1} | changes
        tags = fields.pop("tags", ["Residual", "mlp"])
        descriptor = lp.BlueprintDescriptor(**fields)
        return self.say(
            pb.BlueprintRegistered(descriptor=descriptor, shape_kinds=["vector"], tags=tags), blueprint=blueprint
        )

    def approved(self, blueprint="BP009", *, approved=True):
        return self.say(
            pb.BlueprintApproved(blueprint_id=blueprint, approved=approved, by="ada", why="looked at it"),
            blueprint=blueprint,
        )

    def stored(self, version=1, blueprint="BP009", *, width=4, depth=2.0, checksum="c"):
        """A whole compile job, from request to stored; the artifact's reference."""
        job, ref = f"{blueprint}-{width}-{depth}", f"sha256:{blueprint}-{version}"
        self.say(
            pb.CompileRequested(
                job_id=job, blueprint_id=blueprint, shape_kind="vector", shape=[width], parameters={"depth": depth}
            ),
            blueprint=blueprint,
        )
        self.say(
            pb.CompileFinished(
                job_id=job, blueprint_id=blueprint, artifact_ref=ref, compile_ms=12.0, prewarm_p50_ms=0.5
            ),
            blueprint=blueprint,
        )
        self.say(
            pb.ArtifactStored(
                blueprint_id=blueprint,
                artifact_ref=ref,
                artifact_version=version,
                checksum=checksum,
                guard_digest="g",
                bytes=100,
                form="eager",
            ),
            blueprint=blueprint,
        )
        return ref

    def attached(self, ref, blueprint="BP009"):
        return self.say(pb.KernelAttached(blueprint_id=blueprint, artifact_ref=ref), blueprint=blueprint)


@pytest.fixture(scope="session")
def make_news():
    return News


@pytest.fixture
def news():
    return News()


@pytest.fixture(scope="session")
def ring():
    return RING


@pytest.fixture
def fold():
    """The library in memory after these records, taken in batches of `batch`."""
    opened = []

    def take(records, batch=1_000):
        opened.append(Library(None, RING))
        for start in range(0, len(records), batch):
            opened[-1].take(records[start : start + batch])
        return opened[-1]

    yield take
    for library in opened:
        library.close()


@pytest.fixture
def content():
    """All that a library holds, and where it ends."""

    def rows(library):
        found = library._connection.execute("SELECT * FROM library ORDER BY ALL").fetchall()
        return found, library.next_offsets

    return rows
