"""`chars`: the next character of the Python standard library's own source, found on any machine.

The text depends on the Python version that runs this, and the data fingerprint of a run says so. The choice of files is
the same for the same standard library: top-level modules in the order of the SHA-256 of their names.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from esper.errors import InvalidInput
from esper.tolaria.data import Samples
from esper.tolaria.hosts import TransformerLite, transformer_hidden
from esper.tolaria.tasks.task import ACCURACY, NATS, Task, transformer_sites

CONTEXT: Final = 64
VOCABULARY: Final = 97
"""Newline, the 95 printable ASCII characters, and one symbol for everything else."""

WINDOWS: Final = (20_000, 400, 800)
"""Windows of training, probe and test; each set has files of its own."""

HEADS: Final = 4


def chars(width: int, blocks: int) -> Task:
    """The task with a Transformer of this size; width 32 with one block (16,961 parameters) misses its second block."""

    def sized_host(params: int) -> TransformerLite:
        hidden = transformer_hidden(params, vocabulary=VOCABULARY, context=CONTEXT, width=width, blocks=blocks)
        return TransformerLite(VOCABULARY, CONTEXT, width, blocks, heads=HEADS, hidden=hidden)

    train, probe, test = _read_windows()
    return Task(
        name="chars",
        make_host=lambda: TransformerLite(VOCABULARY, CONTEXT, width, blocks, heads=HEADS, hidden=2 * width),
        sites=transformer_sites(blocks, width // HEADS),
        train=train,
        probe=probe,
        test=test,
        # Short epochs, because a seed's stages last whole ones: of eight long epochs a single life took seven.
        epochs=24,
        batch_size=32,
        learning_rate=1.2e-2,
        steps_per_epoch=50,
        source="builtin:chars",
        sized_host=sized_host,
        metrics=(NATS, ACCURACY),
    )


def encode(text: str) -> Tensor:
    """Symbol ids (len(text),) int64: 0 is newline, 1 to 95 are ASCII 32 to 126, 96 is anything else."""
    codes = torch.tensor([ord(character) for character in text], dtype=torch.int64)
    ids = torch.where((codes >= 32) & (codes < 127), codes - 31, VOCABULARY - 1)
    return torch.where(codes == ord("\n"), 0, ids)


def _read_windows() -> tuple[Samples, Samples, Samples]:
    """Training, probe and test windows, cut from files that no two of them share.

    Probe and test come last: while hosts, rates and rules were chosen they came first, and their files are for training
    now. So no choice was made by how well a network does on a file that is tested on.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    train, probe, test = WINDOWS
    unread = iter(files)
    sets = []
    for wanted in (train, probe, test):
        text = ""
        while len(text) <= wanted * CONTEXT:
            path = next(unread, None)
            if path is None:
                break
            text += path.read_text(encoding="utf-8", errors="replace")
        count = min(wanted, (len(text) - 1) // CONTEXT)
        if count < 1:
            raise InvalidInput(f"task chars: the standard library's source is not in {folder}; choose another task")
        ids = encode(text[: count * CONTEXT + 1])
        sets.append(Samples(ids[:-1].view(count, CONTEXT), ids[1:].view(count, CONTEXT)))
    return sets[0], sets[1], sets[2]
