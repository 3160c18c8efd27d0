"""`digits`: scikit-learn's bundled 8 by 8 images of handwritten digits (UCI, 1,797 samples), ten classes.

The file is read where scikit-learn keeps it, without importing scikit-learn: that import costs a trainer about a second
and 60 MB. A test holds this equal to `sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import numpy as np
import torch

from esper.errors import InvalidInput
from esper.kasmina.sites import Site
from esper.tolaria.data import Samples, split
from esper.tolaria.hosts.resnet_lite import ResNetLite, resnet_widths
from esper.tolaria.tasks.task import Task

CLASSES: Final = 10
SPLIT: Final = (1000, 200, 597)
SPLIT_SEED: Final = 20_250_101


def digits(width: int) -> Task:
    """The task with a host of this width: 2 (696 parameters) leaves room to grow, 8 (9,762) is big enough."""

    def sized_host(params: int) -> ResNetLite:
        narrow, wide = resnet_widths(params, image_channels=1, classes=CLASSES)
        return ResNetLite(1, narrow, CLASSES, wide)

    train, probe, test = split(load_images(), SPLIT, SPLIT_SEED)
    return Task(
        name="digits",
        make_host=lambda: ResNetLite(1, width, CLASSES),
        sites=tuple(Site(f"blocks.{block}", "image") for block in range(3)),
        train=train,
        probe=probe,
        test=test,
        epochs=40,
        batch_size=50,
        learning_rate=1e-2,
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
