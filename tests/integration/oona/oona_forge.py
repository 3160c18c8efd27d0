"""What the forge says on the log."""

from __future__ import annotations

import struct

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.urza.artifact import guard_digest, store

WEIGHTS = struct.pack("<Q", 2) + b"{}"  # a safetensors file without tensors


class Forge:
    """Says on the log what the forge says of one finished job, with the artifact in the object store."""

    def __init__(self, writer, events, objects):
        self.writer, self.events, self.objects = writer, events, objects

    def store(self, blueprint, *, register=True, version=1):
        guard = []
        manifest = {
            "blueprint_id": blueprint,
            "shape_kind": "vector",
            "shape": [4],
            "parameters": {"depth": 2.0},
            "form": "eager",
            "guard": guard,
            "guard_digest": guard_digest(guard),
            "attempt": version,
        }
        ref = store(self.objects, manifest, WEIGHTS)
        job = f"job-{blueprint}"
        descriptor = leyline_pb2.BlueprintDescriptor(
            blueprint_id=blueprint, name="test", tier=leyline_pb2.BLUEPRINT_TIER_SAFE
        )
        bodies = [
            event_pb2.CompileRequested(
                job_id=job, blueprint_id=blueprint, shape_kind="vector", shape=[4], parameters={"depth": 2.0}
            ),
            event_pb2.CompileFinished(job_id=job, blueprint_id=blueprint, artifact_ref=ref, prewarm_p50_ms=0.5),
            event_pb2.ArtifactStored(
                blueprint_id=blueprint,
                artifact_ref=ref,
                artifact_version=version,
                checksum=ref.removeprefix("sha256:"),
                guard_digest=manifest["guard_digest"],
                bytes=self.objects.size(ref),
                form="eager",
            ),
            leyline_pb2.KernelCatalogUpdate(blueprint_id=blueprint, artifact_ref=ref),
        ]
        if register:
            bodies.insert(0, event_pb2.BlueprintRegistered(descriptor=descriptor, shape_kinds=["vector"]))
        for body in bodies:
            self.writer.publish(self.events.make(body))
        self.writer.flush()
        return ref
