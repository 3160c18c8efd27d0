"""The metrics of one process, as Prometheus reads them. Names and labels come from `esper.nissa.catalogue` alone."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from esper.nissa.catalogue import BY_NAME, Metric


class Metrics:
    """A registry of its own; each metric comes to life with its first value. Safe for several threads.

    A name that the catalogue lacks is a KeyError, so nothing can be emitted that no alert rule could name.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._making = threading.Lock()
        self._collectors: dict[str, Counter | Gauge | Histogram] = {}
        ProcessCollector(namespace="esper", registry=self.registry)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        collector = self._child(name, labels)
        assert isinstance(collector, Counter)
        collector.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        collector = self._child(name, labels)
        assert isinstance(collector, Gauge)
        collector.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        collector = self._child(name, labels)
        assert isinstance(collector, Histogram)
        collector.observe(value)

    def forget(self, name: str, *values: str) -> None:
        """Drop the series with these label values, so that finished runs do not pile up."""
        collector = self._collectors.get(name)
        if collector is not None:
            collector.remove(*values)

    def value(self, name: str, **labels: str) -> float:
        """The present value of a counter or gauge, 0 where it has none."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def gauges(self, *names: str) -> dict[str, float]:
        """The present value of every series of these gauges, by its name and the values of its labels."""
        found = [self._collectors[name] for name in names if name in self._collectors]
        samples = [sample for each in found for metric in each.collect() for sample in metric.samples]
        return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}

    def render(self) -> bytes:
        """All of it in the text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        collector = self._collectors.get(name)
        if collector is None:
            with self._making:  # two threads may both have found it missing
                collector = self._collectors.get(name) or _make(BY_NAME[name], self.registry)
                self._collectors[name] = collector
        return collector.labels(**labels) if labels else collector


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
