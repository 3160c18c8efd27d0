"""All compile jobs, with approvals and artifact versions: what the forge knows of the blueprints' topic."""

from __future__ import annotations

from esper.leyline.envelope import Event, body_name, body_of
from esper.tezzeret.jobs import JOB_EVENTS, Job, Place, evolve


class Ledger:
    """Folds `esper.blueprints` event by event; folding an event again changes nothing.

    It changes in place, because a library may hold ten thousand finished jobs and each event touches one.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.approved: set[str] = set()
        self._open: dict[str, None] = {}
        self._by_artifact: dict[str, str] = {}
        self._versions: dict[str, int] = {}

    def apply(self, event: Event, place: Place) -> None:
        """Fold one event of the topic. Raises ContractViolation as `evolve` does; then nothing has changed."""
        name, body = body_name(event), body_of(event)
        if name in JOB_EVENTS:
            self._keep(evolve(self.jobs.get(body.job_id), event, place))
        elif name == "artifact_stored":
            self._versions[body.blueprint_id] = max(self.latest_version(body.blueprint_id), body.artifact_version)
            self._tell(body.artifact_ref, event, place)
        elif name == "kernel_catalog_update":
            self._tell(body.artifact_ref, event, place)
        elif name == "blueprint_approved":
            (self.approved.add if body.approved else self.approved.discard)(body.blueprint_id)

    def open(self) -> list[Job]:
        """The jobs that still need something."""
        return [self.jobs[job_id] for job_id in self._open]

    def latest_version(self, blueprint_id: str) -> int:
        """The highest artifact version stored of a blueprint, 0 where none is."""
        return self._versions.get(blueprint_id, 0)

    def _keep(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        if job.artifact_ref:
            self._by_artifact[job.artifact_ref] = job.job_id
        if job.needs == "nothing":
            self._open.pop(job.job_id, None)
        else:
            self._open[job.job_id] = None

    def _tell(self, artifact_ref: str, event: Event, place: Place) -> None:
        """Tell a job of its artifact; one that no job made, from a vetted bundle, has none."""
        job_id = self._by_artifact.get(artifact_ref)
        if job_id is not None:
            self._keep(evolve(self.jobs[job_id], event, place))
