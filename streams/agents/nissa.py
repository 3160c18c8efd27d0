"""Nissa's agents: events become metrics and alerts. Emergencies have an agent of their own and wait for nothing."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Final

from contracts.topics import BLUEPRINTS, COMMANDS, DEADLETTER, EMERGENCY, REPORTS, RUNS, TELEMETRY
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event, unknown_values
from esper.nissa.alerts import RULES, Alert, Watches, evolve_alerts, evolve_ended, evolve_restored
from esper.nissa.catalogue import BY_NAME
from esper.nissa.measure import Sample, measure
from streams.app import add_agent
from streams.metrics import Metrics
from streams.process import AgentContext
from streams.producer import Publisher
from streams.reader import Intake, past
from streams.records import Record

RECENT_IDS: Final = 4_096
"""R-OONA-10. A redelivery comes soon after its first; one older than this is counted twice in a graph, no more."""
RUNS_SHOWN: Final = 50
"""Runs with series of their own; the oldest make context."""

logger = logging.getLogger(__name__)


class Nissa:
    """Folds events into the metrics of its process and publishes the alerts that they fire or clear."""

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._watches: Watches = {}
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._shown: OrderedDict[str, set[str]] = OrderedDict()
        self._live: set[str] = set()
        for rule in RULES:
            metrics.set("esper_nissa_alerts_active", 0.0, rule=rule.name)

    async def handle(self, event: Event, record: Record) -> None:
        """Fold one event. Alerts are on the log before the event counts as handled, under ids derived from it."""
        if event.event_id in self._recent:
            return
        watches = self._watches
        alerts: list[Alert] = []
        samples = measure(event)
        for sample in samples:
            watches, alert = evolve_alerts(watches, sample, record.timestamp_ms / 1000)
            alerts += [alert] if alert is not None else []
        if event.WhichOneof("body") == "run_finished":
            watches, cleared = evolve_ended(watches, event.run_id)
            alerts += cleared
        if alerts:
            await self._publisher.publish([_alert_event(event, alert) for alert in alerts])
        # Nothing above changed this object, so an attempt that failed can be made again.
        self._watches = watches
        self._remember(event.event_id)
        self._count_runs(event)
        for sample in samples:
            self._emit(sample)
        strangers = unknown_values(event)
        if strangers:
            words = ", ".join(f"{enum} {number}" for enum, number in strangers)
            logger.warning("event %s has values that these contracts lack: %s", event.event_id.hex(), words)
        for alert in alerts:
            self._tell(alert)
        self._metrics.observe("esper_nissa_ingest_latency_seconds", max(0.0, time.time() - record.timestamp_ms / 1000))

    def restore(self, event: Event) -> None:
        """Take over an alert event of an earlier process: what it left active does not fire again."""
        match event.WhichOneof("body"):
            case "alert_fired":
                self._watches = evolve_restored(self._watches, event.alert_fired.rule, event.run_id, active=True)
            case "alert_cleared":
                self._watches = evolve_restored(self._watches, event.alert_cleared.rule, event.run_id, active=False)
        self._show_active()

    def _remember(self, event_id: bytes) -> None:
        self._recent[event_id] = None
        if len(self._recent) > RECENT_IDS:
            self._recent.popitem(last=False)

    def _count_runs(self, event: Event) -> None:
        match event.WhichOneof("body"):
            case "run_started" | "run_resumed":
                self._live.add(event.run_id)
            case "run_finished":
                self._live.discard(event.run_id)
            case _:
                return
        self._metrics.set("esper_training_runs", len(self._live))

    def _emit(self, sample: Sample) -> None:
        if "run" in sample.labels:
            self._make_room(sample)
        match BY_NAME[sample.name].kind:
            case "counter":
                self._metrics.count(sample.name, sample.value, **sample.labels)
            case "gauge":
                self._metrics.set(sample.name, sample.value, **sample.labels)
            case "histogram":
                self._metrics.observe(sample.name, sample.value, **sample.labels)

    def _make_room(self, sample: Sample) -> None:
        run = sample.labels["run"]
        self._shown.setdefault(run, set()).add(sample.name)
        self._shown.move_to_end(run)
        if len(self._shown) > RUNS_SHOWN:
            oldest, names = self._shown.popitem(last=False)
            for name in names:
                self._metrics.forget(name, oldest)

    def _tell(self, alert: Alert) -> None:
        """Notify: every route is a line of the process's log that names who should be reached."""
        verb, routes = "fired" if alert.active else "cleared", ", ".join(alert.rule.routes)
        logger.warning("alert %s %s for %s at %g -> %s", alert.rule.name, verb, alert.scope, alert.value, routes)
        if alert.active:
            self._metrics.count("esper_nissa_alerts_total", rule=alert.rule.name)
        self._show_active()

    def _show_active(self) -> None:
        active = [rule for (rule, _), watch in self._watches.items() if watch.active]
        for rule in RULES:
            self._metrics.set("esper_nissa_alerts_active", float(active.count(rule.name)), rule=rule.name)


def _alert_event(cause: Event, alert: Alert) -> Event:
    verb = "fired" if alert.active else "cleared"
    return new_event(
        alert.body(),
        event_id=ids.derived_id(cause.event_id, f"nissa.{verb}.{alert.rule.name}"),
        run_id=alert.scope,
        producer="nissa",
        recorded_at_ns=time.time_ns(),
        causation_id=cause.event_id,
        correlation_id=cause.correlation_id,
        global_step=cause.global_step,
        epoch=cause.epoch,
    )


async def setup(context: AgentContext) -> None:
    """Nissa's two agents, with the alerts that an earlier process left active."""
    nissa = Nissa(context.publisher, context.metrics)
    async for event in past(context.brokers, context.ring, EMERGENCY):
        nissa.restore(event)
    intake = Intake("nissa", context.ring, context.publisher, context.metrics, nissa.handle, fold=True)
    add_agent(context.app, "nissa-emergency", [EMERGENCY, DEADLETTER], intake.take)
    add_agent(context.app, "nissa", [RUNS, COMMANDS, REPORTS, BLUEPRINTS, TELEMETRY], intake.take)
