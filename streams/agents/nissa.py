"""Nissa's agents: events become metrics and alerts. Emergencies have an agent of their own and wait for nothing.

What alerts remember is a fold of what was handled before: a process that begins folds the runs' facts of the last hour
up to where its group is, and tells nothing of them. While a run trains, or something bad lasts, the processes of the
data folder are asked for what must not come by the log, and time itself is folded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from contracts.topics import BLUEPRINTS, COMMANDS, DEADLETTER, EMERGENCY, REPORTS, RUNS, TELEMETRY
from esper.errors import EsperError, LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event, unknown_values
from esper.nissa.alerts import (
    RULES,
    Alert,
    Watches,
    evolve_absent,
    evolve_alerts,
    evolve_ended,
    evolve_restored,
    evolve_time,
    waits,
)
from esper.nissa.catalogue import BY_NAME
from esper.nissa.measure import Sample, measure
from projections import manifest
from streams.agents.notify import Notifier, channels_of
from streams.agents.scraped import METRICS, present, scraped, trains
from streams.app import add_agent
from streams.metrics import Metrics
from streams.process import AgentContext
from streams.producer import Publisher
from streams.reader import Intake, handled, past
from streams.records import Record
from streams.settings import Settings

RECENT_IDS: Final = 4_096
"""R-OONA-10. A redelivery comes soon after its first; one older than this is counted twice in a graph, no more."""
RUNS_SHOWN: Final = 50
"""Runs with series of their own; the oldest make room."""
RECALLED_S: Final = 3_600.0
"""How far back the facts are folded again that a process before this one has handled."""
LOOK_S: Final = 1.0
"""How often, while a run trains or something bad lasts, processes are asked and time is folded; and how often an idle
worker looks whether that is so now."""
IDLE_LOOK_S: Final = 30.0
"""The same while nothing of the kind is so. R-NIS-10."""
LEAST_LAG_SCALE: Final = 1 / 3
"""A drill waits for ten seconds of lag at least: on a busy machine the archiver may be some behind."""
TELL_S: Final = 1.0
"""How long a look waits for the log to take what it found; the next one writes it again."""

logger = logging.getLogger(__name__)


class Nissa:
    """Folds events into the metrics of its process and publishes the alerts that they fire or clear."""

    def __init__(
        self, publisher: Publisher, metrics: Metrics, notifier: Notifier | None = None, window_scale: float = 1.0
    ) -> None:
        self._publisher = publisher
        self._window_scale = window_scale
        self._unsaid: list[Event] = []
        self._mark: tuple[manifest.Place, int, float] | None = None
        self._newest: tuple[manifest.Place, int] | None = None
        self._notifier = notifier
        self._metrics = metrics
        self._watches: Watches = {}
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._shown: OrderedDict[str, set[str]] = OrderedDict()
        self._live: set[str] = set()
        for rule in RULES:
            metrics.set("esper_nissa_alerts_active", 0.0, rule=rule.name)

    async def handle(self, event: Event, record: Record) -> None:
        """Fold one event. Alerts are on the log before the event counts as handled, under ids derived from it.

        Then people are told. The alerts come back from there as any events do, and say nothing new to who knows them.
        """
        if event.event_id in self._recent:
            return
        samples = measure(event)
        watches, alerts = _folded(self._watches, event, samples, self._clock(record.timestamp_ms / 1000))
        told = [_alert_event(event, alert) for alert in alerts]
        if told:
            await self._publisher.publish(told)
            # Time may have been folded meanwhile.
            watches, _ = _folded(self._watches, event, samples, self._clock(record.timestamp_ms / 1000))
        # Nothing above changed this object, so an attempt that failed can be made again.
        self._watches = watches
        self._newest = (record.topic, record.partition), record.offset
        self._remember(event.event_id)
        self._count_runs(event)
        for sample in samples:
            self._emit(sample)
        if event.WhichOneof("body") == "run_finished":
            self._forget(event.run_id)
        self._notify([*told, event] if record.topic == EMERGENCY.name else told)
        strangers = unknown_values(event)
        if strangers:
            words = ", ".join(f"{enum} {number}" for enum, number in strangers)
            logger.warning("event %s has values that these contracts lack: %s", event.event_id.hex(), words)
        for alert in alerts:
            self._tell(alert)
        self._metrics.observe("esper_nissa_ingest_latency_seconds", max(0.0, time.time() - record.timestamp_ms / 1000))

    async def look(self, samples: Iterable[Sample], now_s: float, present: Collection[str]) -> None:
        """Fold what processes say of themselves now, which of them are `present` at all, and the time.

        People are told of what that makes, and then it is written to the log: nobody waits for one that takes nothing.
        The next look writes what is missing, as it was.
        """
        watches, alerts = self._watches, list[Alert]()
        for sample in samples:
            watches, alert = evolve_alerts(watches, sample, self._clock(now_s))
            alerts += [alert] if alert is not None else []
        watches, gone = evolve_absent(watches, METRICS, present)
        self._watches, lasted = evolve_time(watches, self._clock(now_s))
        lasted = gone + lasted
        found = [_alert_event(None, alert) for alert in alerts + lasted]
        self._unsaid += found
        for alert in alerts + lasted:
            self._tell(alert)
        self._notify(found)
        if not self._unsaid:
            return
        try:
            await asyncio.wait_for(self._publisher.publish(self._unsaid), TELL_S)
        except (LogUnavailable, TimeoutError) as error:
            logger.warning("alerts wait for the log: %s", str(error) or f"it took nothing for {TELL_S:g} s")
        else:
            self._unsaid = []

    def lag(self, archived: Mapping[manifest.Place, int], now_s: float) -> Sample:
        """How long the newest record that was handled when the archive last had all that was waits to be archived."""
        if self._mark is None or archived.get(self._mark[0], 0) > self._mark[1]:
            newest = self._newest
            late = newest is not None and archived.get(newest[0], 0) <= newest[1]
            self._mark = (*newest, now_s) if late and newest is not None else None
        seconds = 0.0 if self._mark is None else now_s - self._mark[2]
        self._metrics.set("esper_archive_lag_seconds", seconds)
        return Sample("esper_archive_lag_seconds", seconds / max(self._window_scale, LEAST_LAG_SCALE), "archive")

    def _clock(self, seconds: float) -> float:
        """The time by which rules wait: a drill has it pass quicker."""
        return seconds / self._window_scale

    @property
    def waits(self) -> bool:
        """Whether time alone may change something: what is bad lasts, a fired alert may clear, or one is to be told."""
        return bool(self._unsaid) or self._mark is not None or waits(self._watches)

    def recall(self, event: Event, record: Record) -> None:
        """Take over an event that an earlier process has handled; what it fired is on the log."""
        self._watches, _ = _folded(self._watches, event, measure(event), self._clock(record.timestamp_ms / 1000))
        self._count_runs(event)

    def restore(self, event: Event) -> None:
        """Take over an alert event of an earlier process: what it left active does not fire again."""
        match event.WhichOneof("body"):
            case "alert_fired":
                self._watches = evolve_restored(self._watches, event.alert_fired.rule, event.run_id, active=True)
            case "alert_cleared":
                self._watches = evolve_restored(self._watches, event.alert_cleared.rule, event.run_id, active=False)
        if self._notifier is not None:
            self._notifier.recall(event)
        self._show_active()

    def _notify(self, events: Iterable[Event]) -> None:
        """Have people told, at once: a worker that is behind reads late what it has written itself."""
        for event in events:
            if self._notifier is not None:
                self._notifier.take(event)

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
            case "epoch_completed" if event.run_id not in self._live:  # of a run that began long before this process
                self._live.add(event.run_id)
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
            self._forget(next(iter(self._shown)))

    def _forget(self, run: str) -> None:
        """A run's series go with it."""
        for name in self._shown.pop(run, ()):
            self._metrics.forget(name, run)

    def _tell(self, alert: Alert) -> None:
        """In the process's log: who is told, and who is not because nobody configured it."""
        verb = "fired" if alert.active else "cleared"
        reached = [route for route in alert.rule.routes if self._notifier and self._notifier.configured(route)]
        missing = [route for route in alert.rule.routes if route not in reached]
        told = [f"{route} is told" for route in reached] + [f"{route} is not configured" for route in missing]
        said = "; ".join(told)
        logger.warning("alert %s %s for %s at %g: %s", alert.rule.name, verb, alert.scope, alert.value, said)
        if alert.active:
            self._metrics.count("esper_nissa_alerts_total", rule=alert.rule.name)
        self._show_active()

    def _show_active(self) -> None:
        active = [rule for (rule, _), watch in self._watches.items() if watch.active]
        for rule in RULES:
            self._metrics.set("esper_nissa_alerts_active", float(active.count(rule.name)), rule=rule.name)


def _folded(watches: Watches, event: Event, samples: Iterable[Sample], at_s: float) -> tuple[Watches, list[Alert]]:
    """The watches after an event, and the alerts that it fired or cleared."""
    alerts: list[Alert] = []
    for sample in samples:
        watches, alert = evolve_alerts(watches, sample, at_s)
        alerts += [alert] if alert is not None else []
    if event.WhichOneof("body") == "run_finished":
        watches, cleared = evolve_ended(watches, event.run_id)
        alerts += cleared
    return watches, alerts


def _alert_event(cause: Event | None, alert: Alert) -> Event:
    """The event that tells of an alert; one that no event caused has an id of its own."""
    if cause is None:
        now_ns = time.time_ns()
        own_id = ids.uuid7(now_ns, os.urandom(10))
        return new_event(alert.body(), event_id=own_id, run_id=alert.scope, producer="nissa", recorded_at_ns=now_ns)
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
    notifier = Notifier(channels_of(context.settings), context.publisher, context.metrics)
    nissa = Nissa(context.publisher, context.metrics, notifier, context.settings.alert_window_scale)
    async for event, record in handled(context.brokers, context.ring, RUNS, context.app.conf.id, RECALLED_S):
        nissa.recall(event, record)
    async for event in past(context.brokers, context.ring, EMERGENCY):
        nissa.restore(event)
    intake = Intake("nissa", context.ring, context.publisher, context.metrics, nissa.handle, fold=True)
    add_agent(context.app, "nissa-emergency", [EMERGENCY, DEADLETTER], intake.take)
    add_agent(context.app, "nissa", [RUNS, COMMANDS, REPORTS, BLUEPRINTS, TELEMETRY], intake.take)
    notifier.send_due()  # what an earlier process did not come to tell
    looking = asyncio.create_task(_look(nissa, context.settings))
    _tasks.add(looking)
    looking.add_done_callback(_tasks.discard)


_tasks: Final[set[asyncio.Task[None]]] = set()


async def until_due(nissa: Nissa, run_folder: Path) -> None:
    """Wait until it is time to look: after `IDLE_LOOK_S`, or sooner where a run has begun meanwhile."""
    idle_until = time.monotonic() + IDLE_LOOK_S
    await asyncio.sleep(LOOK_S)
    while not (nissa.waits or trains(run_folder)) and time.monotonic() < idle_until:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(LOOK_S)


async def _look(nissa: Nissa, settings: Settings) -> None:
    """Ask the data folder's processes, read how far its archive is, and fold the time, for ever."""
    run_folder, archive = settings.run_folder, settings.data / "archive"
    while True:
        await until_due(nissa, run_folder)
        samples = await asyncio.to_thread(lambda: list(scraped(run_folder)))
        try:
            archived = await asyncio.to_thread(manifest.covered, archive)
        except (EsperError, OSError) as error:
            logger.warning("how far the archive is cannot be read: %s", error)
        else:
            samples.append(nissa.lag(archived, time.time()))
        await nissa.look(samples, time.time(), present(run_folder))
