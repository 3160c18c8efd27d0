"""What the broker's `/health` and `/metrics` show: its sizes and its failures, looked up when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.broker.core import Core
from streams.health import HealthPages

if TYPE_CHECKING:
    from streams.metrics import Metrics


def pages(core: Core) -> HealthPages:
    """The broker's pages, to be started in its own loop.

    A second thread would cost what the broker is measured by: two threads hand the interpreter over every 5 ms.
    """
    return HealthPages(
        "broker",
        lambda: metrics(core).render(),
        checks={"disk": lambda: next((p.failure for _, _, p in core.store.partitions() if p.failure), None)},
        figures={
            "connections": lambda: core.counters.open_connections,
            "damaged_segments": lambda: sum(len(each.damaged) for each in core.partition_stats()),
        },
    )


def metrics(core: Core) -> Metrics:
    """Everything there is to say about the broker now, under the names of the catalogue."""
    from streams.metrics import Metrics  # noqa: PLC0415 - 30 ms of start-up that the first scrape can pay

    found, totals = Metrics(), core.counters
    found.set("esper_broker_connections", totals.open_connections)
    found.count("esper_broker_requests_total", totals.requests)
    found.count("esper_broker_malformed_total", totals.malformed)
    found.count("esper_broker_refused_total", totals.refused)
    found.count("esper_broker_records_total", totals.records)
    found.count("esper_broker_duplicates_total", totals.duplicates)
    found.count("esper_broker_received_bytes_total", totals.bytes_in)
    found.count("esper_broker_sent_bytes_total", totals.bytes_out)
    partitions = core.partition_stats()
    found.set("esper_broker_damaged_segments", sum(len(each.damaged) for each in partitions))
    for each in partitions:
        where = {"topic": each.topic, "partition": str(each.partition)}
        found.set("esper_broker_log_bytes", each.bytes, **where)
        found.set("esper_broker_log_start_offset", each.start, **where)
        found.set("esper_broker_log_end_offset", each.end, **where)
    return found
