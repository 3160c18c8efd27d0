"""`cifar10:FOLDER`: CIFAR-10 in its standard binary form, from a folder of this machine.

Format: records of 3,073 bytes, one label and then 32 by 32 red, green and blue values, row by row
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch

from esper.errors import InvalidInput
from esper.tolaria.data import Samples, split
from esper.tolaria.hosts import ResNetLite, resnet_sites, resnet_widths
from esper.tolaria.tasks.task import Task

RECORD_BYTES: Final = 1 + 3 * 32 * 32
CLASSES: Final = 10
TRAIN_FILES: Final = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE: Final = "test_batch.bin"
PROBE_SHARE: Final = 0.1
SPLIT_SEED: Final = 20_250_103


def cifar10(folder: Path, width: int) -> Task:
    """The task from `folder`, which holds data_batch_1.bin (and up to 5) and test_batch.bin; a tenth is the probe set.

    Raises InvalidInput where the folder or a file is missing or has no whole number of records.
    """
    present = [folder / name for name in TRAIN_FILES if (folder / name).is_file()]
    if not present or not (folder / TEST_FILE).is_file():
        raise InvalidInput(
            f"task cifar10: {folder} does not hold data_batch_1.bin and test_batch.bin; unpack the binary version of "
            "CIFAR-10 and give its folder as cifar10:FOLDER"
        )
    samples = _read(present)
    probe_count = max(1, round(PROBE_SHARE * len(samples)))
    train, probe = split(samples, (len(samples) - probe_count, probe_count), SPLIT_SEED)

    def sized_host(params: int) -> ResNetLite:
        narrow, wide = resnet_widths(params, image_channels=3, classes=CLASSES)
        return ResNetLite(3, narrow, CLASSES, wide)

    return Task(
        name="cifar10",
        make_host=lambda: ResNetLite(3, width, CLASSES),
        sites=resnet_sites(),
        train=train,
        probe=probe,
        test=_read([folder / TEST_FILE]),
        epochs=20,
        batch_size=min(64, len(train)),
        learning_rate=3e-3,
        source="builtin:cifar10",
        sized_host=sized_host,
    )


def _read(paths: list[Path]) -> Samples:
    """Images (N, 3, 32, 32) uint8 and classes (N,) int64 of these files."""
    records = []
    for path in paths:
        raw = np.fromfile(path, dtype=np.uint8)
        if not raw.size or raw.size % RECORD_BYTES:
            raise InvalidInput(
                f"task cifar10: {path} has {raw.size} bytes, no multiple of {RECORD_BYTES}; fetch the file again"
            )
        records.append(raw.reshape(-1, RECORD_BYTES))
    table = torch.from_numpy(np.concatenate(records))
    classes = table[:, 0].long()
    if int(classes.max()) >= CLASSES:
        raise InvalidInput(f"task cifar10: class {int(classes.max())} in {paths[0].parent} is above 9; not CIFAR-10")
    return Samples(table[:, 1:].reshape(-1, 3, 32, 32).contiguous(), classes)
