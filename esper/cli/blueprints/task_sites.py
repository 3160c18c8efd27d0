"""The shapes of a task's sites: what a run of it could need kernels for."""

from __future__ import annotations

from esper.karn.blueprint import SiteShape
from esper.karn.catalogue import site_shape
from esper.kasmina.sites import describe_sites
from esper.tolaria.tasks import load_task


def task_sites(name: str) -> list[SiteShape]:
    """The distinct shapes of the sites of a task's host; raises InvalidInput for a task that does not exist."""
    task = load_task(name)
    described = describe_sites(task.make_host(), task.sites, task.train.inputs[:2], lambda _site: [])
    return list(dict.fromkeys(site_shape(site) for site in described))
