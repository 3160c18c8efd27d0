"""`digits`: scikit-learn's bundled 8 by 8 images of handwritten digits (UCI, 1,797 samples), ten classes.

The file is read where scikit-learn keeps it, without importing scikit-learn: that import costs a trainer about a second
and 60 MB. A test holds this equal to `sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.kasmina.sites import Site
from esper.tolaria.data import Samples, split
from esper.tolaria.hosts import (
    BlocklessResNet,
    ResNetLite,
    blockless_channels,
    blockless_sites,
    resnet_sites,
    resnet_widths,
)
from esper.tolaria.tasks.task import Task

CLASSES: Final = 10
CHANNELS: Final = 4
SPLIT: Final = (597, 200, 1000)
"""Test, probe and training images, in this order. While hosts, rates and rules were chosen, every test and probe image
was a training image, so no choice was made by how well a network does on one of them."""
SPLIT_SEED: Final = 20_250_101


def digits() -> Task:
    """The task with a host that misses its blocks: a stem of 4 channels and a head, 214 parameters.

    What limits it is depth: a residual block more is worth 5 points of accuracy at every learning rate tried, while a
    complete network of a like size (three blocks, 2 channels) is limited by its width, which no seed can change.
    """

    def sized_host(params: int) -> BlocklessResNet:
        return BlocklessResNet(1, blockless_channels(params, image_channels=1, classes=CLASSES), CLASSES)

    return _task(lambda: BlocklessResNet(1, CHANNELS, CLASSES), sized_host, blockless_sites(), learning_rate=2e-2)


def digits_wide() -> Task:
    """The task with a host that is big enough: three blocks of 8 and 16 channels, 9,762 parameters."""

    def sized_host(params: int) -> ResNetLite:
        narrow, wide = resnet_widths(params, image_channels=1, classes=CLASSES)
        return ResNetLite(1, narrow, CLASSES, wide)

    return _task(lambda: ResNetLite(1, 8, CLASSES), sized_host, resnet_sites(), learning_rate=1e-2)


def _task(
    make_host: Callable[[], nn.Module],
    sized_host: Callable[[int], nn.Module],
    sites: tuple[Site, ...],
    *,
    learning_rate: float,
) -> Task:
    test, probe, train = split(load_images(), SPLIT, SPLIT_SEED)
    return Task(
        name="digits",
        make_host=make_host,
        sites=sites,
        train=train,
        probe=probe,
        test=test,
        epochs=40,
        batch_size=50,
        learning_rate=learning_rate,
        source="builtin:digits",
        sized_host=sized_host,
    )


def load_images() -> Samples:
    """All samples: images (1797, 1, 8, 8) float32 in 0..1 and classes (1797,) int64."""
    spec = importlib.util.find_spec("sklearn")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0] if folders else "sklearn", "datasets", "data", "digits.csv.gz")
    if not path.is_file():
        raise InvalidInput(f"task digits: {path} is missing; install scikit-learn, which brings the images")
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :64]).view(-1, 1, 8, 8) / 16
    return Samples(images, torch.from_numpy(table[:, 64]).long())
