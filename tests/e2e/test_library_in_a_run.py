"""A run whose seeds germinate with kernels of the library, and the same run without a library: the same to the bit."""

from __future__ import annotations

import asyncio
import time

from contracts.topics import KERNELS
from esper.karn.table import find
from esper.leyline.objects import ObjectStore
from esper.tezzeret import child, events, results
from esper.tezzeret.jobs import Place, evolve, request
from esper.tezzeret.results import order_of
from esper.weatherlight import client
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.settings import Settings

RUN = ("run", "--task", "digits", "--epochs", "8", "--seed", "3", "--no-control")
SITE = ("image", (4, 8, 8))


def stock(esper, folder, *blueprints):
    """Put kernels into the library as the forge does; its references by blueprint."""
    settings = Settings.load(data=esper.data_dir)
    objects, told, refs = ObjectStore(settings.objects), [], {}
    for blueprint_id in blueprints:
        body = request(blueprint_id, *SITE, find(blueprint_id).resolve({}), "emergency")
        asked = events.requested(body, time.time_ns(), producer="test")
        job = evolve(None, asked, Place(0, 0, 0))
        work = folder / blueprint_id
        work.mkdir()
        child._compile(order_of(job, "emergency", 2**31, approved=False), work, time.perf_counter, time.process_time)
        stored = results.store(objects, work, results.read_report(work))
        begun = events.started(job, 1, "emergency", 1)
        job = evolve(job, begun, Place(0, 0, 0))
        told += [asked, begun, events.finished(job, stored, 2), *events.published(job, stored, 1, 3)]
        refs[blueprint_id] = stored.ref
    with client.join(esper.data_dir, client="test") as lease:
        lease.wait_ready()

        async def publish():
            publisher = Publisher(lease.brokers, load_key_ring(settings, lease.brokers), Metrics())
            await publisher.start()
            await publisher.publish(told)
            await publisher.stop()

        asyncio.run(publish())
    return refs


def test_a_run_with_kernels_of_the_library_is_the_run_without_to_the_bit(esper, tmp_path):
    """The first run has an empty library, as on a fresh data folder; the second finds everything there."""
    empty = esper.json(*RUN)["run_id"]
    query = "select blueprint_id, artifact_ref from log.kernel_attached where run_id = '{}' order by global_step"
    built = esper.json("sql", query.format(empty))
    assert {row["artifact_ref"] for row in built} == {""}
    refs = stock(esper, tmp_path, *{row["blueprint_id"] for row in built})

    full = esper.json(*RUN)["run_id"]

    fetched = esper.json("sql", query.format(full))
    assert [row["artifact_ref"] for row in fetched] == [refs[row["blueprint_id"]] for row in built]
    digests = esper.json(
        "sql",
        "select global_step, occasion, count(distinct root) as roots, count(*) as runs from log.state_digested "
        "where global_step <= (select coalesce(min(global_step), 1e9) from log.decision_timed_out) group by all",
    )
    assert {digest["occasion"] for digest in digests} >= {"start", "epoch", "transition"}
    assert all((digest["roots"], digest["runs"]) == (1, 2) for digest in digests), digests
    asked = esper.json(
        "sql", f"select count(*) as n from log.kernel_prefetch_request where log_topic = '{KERNELS.name}'"
    )
    assert asked[0]["n"] >= 2
