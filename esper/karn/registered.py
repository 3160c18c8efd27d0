"""Writes `registered.json`, the templates' facts one a line: `python -m esper.karn.registered`."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from esper.karn.catalogue import CATALOGUE
from esper.karn.queries import registered
from esper.karn.registration import FILE


def text() -> str:
    """The file's content, as it follows from the templates."""
    lines = [
        json_format.MessageToJson(registered(blueprint), indent=None, sort_keys=True, ensure_ascii=False)
        for blueprint in CATALOGUE.values()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(text(), encoding="utf-8")
