"""The shapes of a task's sites: what a run of it could need kernels for."""

from __future__ import annotations

from esper.karn.facts import SiteShape


def task_sites(name: str) -> list[SiteShape]:
    """The distinct shapes of the sites of a task's host; raises InvalidInput for a task that does not exist."""
    from esper.karn.catalogue import site_shape  # noqa: PLC0415 - torch, and the task's data
    from esper.kasmina.sites import describe_sites  # noqa: PLC0415
    from esper.tolaria.tasks import load_task  # noqa: PLC0415

    task = load_task(name)
    described = describe_sites(task.make_host(), task.sites, task.train.inputs[:2], lambda _site: [])
    return list(dict.fromkeys(site_shape(site) for site in described))
