"""`doc`: the next character of Python's own documentation, as `help()` knows it, found on any machine.

The text depends on the Python version that runs this, and the data fingerprint of a run says so.
"""

from __future__ import annotations

import importlib
from typing import Final

import torch

from esper.errors import InvalidInput
from esper.tolaria.data import Samples
from esper.tolaria.hosts import TransformerLite, transformer_hidden
from esper.tolaria.tasks.chars import VOCABULARY, encode
from esper.tolaria.tasks.task import ACCURACY, NATS, Task, transformer_sites

CONTEXT: Final = 48
HEADS: Final = 3
PROBE_SHARE: Final = 0.05
TEST_SHARE: Final = 0.1
"""The last tenth of the text is for the test and the twentieth before it for the probe."""


def doc(width: int, blocks: int) -> Task:
    """The task with a Transformer of this size; width 24 with one block (10,825 parameters) misses its second block."""

    def sized_host(params: int) -> TransformerLite:
        hidden = transformer_hidden(params, vocabulary=VOCABULARY, context=CONTEXT, width=width, blocks=blocks)
        return TransformerLite(VOCABULARY, CONTEXT, width, blocks, heads=HEADS, hidden=hidden)

    train, probe, test = _read_windows()
    return Task(
        name="doc",
        make_host=lambda: TransformerLite(VOCABULARY, CONTEXT, width, blocks, heads=HEADS, hidden=2 * width),
        sites=transformer_sites(blocks, width // HEADS),
        train=train,
        probe=probe,
        test=test,
        epochs=24,
        batch_size=32,
        learning_rate=1e-2,
        steps_per_epoch=20,
        source="builtin:doc",
        sized_host=sized_host,
        metrics=(NATS, ACCURACY),
    )


def _read_windows() -> list[Samples]:
    """Training, probe and test windows of symbol ids (windows, 48) int64, and the symbols that follow them."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise InvalidInput("task doc: this Python has no pydoc_data.topics; choose another task") from None
    ids = encode("".join(topics[key] for key in sorted(topics)))
    count = (len(ids) - 1) // CONTEXT
    inputs, targets = (ids[first : first + count * CONTEXT].view(count, CONTEXT) for first in (0, 1))
    probe, test = round(count * PROBE_SHARE), round(count * TEST_SHARE)
    sizes = [count - probe - test, probe, test]
    parts = zip(torch.split(inputs, sizes), torch.split(targets, sizes), strict=True)
    return [Samples(*part) for part in parts]
