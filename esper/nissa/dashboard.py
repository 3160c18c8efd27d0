"""The dashboard of every metric, one panel each, made of the catalogue: `python -m esper.nissa.dashboard deploy`.

What a person looks at first stands in `esper.json`, which is drawn by hand; nothing that is emitted stands nowhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from esper.nissa.catalogue import WHOSE, Metric

FILE: Final = "grafana/dashboards/esper-all.json"
WIDTH: Final = 8
HEIGHT: Final = 7
IN_A_ROW: Final = 3
UNITS: Final = {
    "_seconds": "s",
    "_seconds_total": "s",
    "_bytes": "bytes",
    "_bytes_total": "Bps",
    "_ratio": "percentunit",
}
"""What Grafana calls the units that end a metric's name."""


def as_json() -> str:
    """The dashboard's file."""
    panels: list[dict[str, Any]] = []
    top = 0
    for whose, metrics in WHOSE:
        place = {"h": 1, "w": WIDTH * IN_A_ROW, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": whose, "collapsed": False, "gridPos": place})
        for number, metric in enumerate(metrics):
            row, column = divmod(number, IN_A_ROW)
            place = {"h": HEIGHT, "w": WIDTH, "x": WIDTH * column, "y": top + 1 + HEIGHT * row}
            panels.append(_panel(metric, len(panels) + 1, place))
        top += 1 + HEIGHT * -(-len(metrics) // IN_A_ROW)
    told = {
        "uid": "esper-all",
        "title": "Esper, every metric",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "tags": ["esper"],
        "panels": panels,
    }
    return json.dumps(told, indent=1) + "\n"


def expression(metric: Metric) -> str:
    """What is drawn of a metric: a gauge as it is, a counter's rate, and the slowest twentieth of a histogram."""
    if metric.kind == "gauge":
        return metric.name
    if metric.kind == "counter":
        return f"sum by ({', '.join(('process', *metric.labels))}) (rate({metric.name}[5m]))"
    labels = ", ".join(("le", "process", *metric.labels))
    return f"histogram_quantile(0.95, sum by ({labels}) (rate({metric.name}_bucket[5m])))"


def _panel(metric: Metric, number: int, place: dict[str, int]) -> dict[str, Any]:
    unit = next((unit for end, unit in UNITS.items() if metric.name.endswith(end)), "short")
    legend = " ".join(f"{{{{{label}}}}}" for label in ("process", *metric.labels))
    return {
        "id": number,
        "title": metric.name,
        "description": metric.help,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": expression(metric), "legendFormat": legend}],
    }


if __name__ == "__main__":
    (Path(sys.argv[1]) / FILE).write_text(as_json(), "utf-8")
