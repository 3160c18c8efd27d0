"""`m1d_mlp` and `m1d_cnn`: mnist1d, ten classes of generated signals of 40 samples, for a perceptron and a small CNN.

Greydanus and Kobak, Scaling Down Deep Learning with MNIST-1D (arXiv 2011.14439): their MLP has 68 % and their CNN 94 %.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from esper.tolaria.data import Samples
from esper.tolaria.hosts import MLP, mlp_widths
from esper.tolaria.tasks import Site, Task
from esper.tolaria.tasks.tabular import in_order
from esper.tolaria.tasks.task import perceptron_sites

LENGTH: Final = 40
CLASSES: Final = 10
LAYERS: Final = 2
SIZES: Final = (3500, 500, 1000)
KERNELS: Final = (5, 3, 3)


class SignalCNN(nn.Module):
    """Signals (B, 1, 40, 1) to logits (B, 10): three convolutions along the signal, each with stride 2.

    `layers.<i>` are the convolutions with their activations, and the sites.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1 if number == 0 else channels, channels, (size, 1), stride=(2, 1), padding=(size // 2, 0)),
                nn.ReLU(),
            )
            for number, size in enumerate(KERNELS)
        )
        self.head = nn.Linear(5 * channels, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        """Logits (B, 10) of signals (B, 1, 40, 1)."""
        hidden = signals
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden.flatten(1))
        return logits


def cnn_channels(params: int) -> int:
    """Channels of the SignalCNN whose parameter count is nearest to `params`, 1 at least."""
    return min(range(1, 257), key=lambda c: abs(6 * c + 2 * (3 * c + 1) * c + (5 * c + 1) * CLASSES - params))


def m1d_mlp(width: int) -> Task:
    """The task with two hidden layers of this width; 16 (1,098 parameters) is narrow."""

    def sized_host(params: int) -> MLP:
        return MLP(LENGTH, mlp_widths(params, inputs=LENGTH, classes=CLASSES, depth=LAYERS), CLASSES, nn.ReLU)

    sites = perceptron_sites(LAYERS)
    return _task("m1d_mlp", lambda: MLP(LENGTH, [width] * LAYERS, CLASSES, nn.ReLU), sized_host, sites, signals(), 40)


def m1d_cnn(channels: int) -> Task:
    """The task with three convolutions of so many channels; 8 (858 parameters) is narrow."""
    flat = signals()
    images = Samples(flat.inputs.view(-1, 1, LENGTH, 1), flat.targets)
    return _task(
        "m1d_cnn",
        lambda: SignalCNN(channels),
        lambda params: SignalCNN(cnn_channels(params)),
        _convolution_sites(),
        images,
        epochs=24,
    )


@cache
def signals() -> Samples:
    """All 5,000 samples, the test part last: signals (5000, 40) float32 and classes (5000,) int64.

    With mnist1d's default arguments, which fix its seed. It seeds the random streams of the whole process, so these are
    put back.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (the stream that mnist1d seeds)
    try:
        made = make_dataset(get_dataset_args())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
    inputs, classes = (np.concatenate([made[part], made[f"{part}_test"]]) for part in "xy")
    return Samples(torch.from_numpy(inputs).float(), torch.from_numpy(classes).long())


def _convolution_sites() -> tuple[Site, ...]:
    names = [*(f"layers.{layer}.0" for layer in range(len(KERNELS))), "head"]
    return (
        *(Site(f"layers.{layer}", "image") for layer in range(len(KERNELS))),
        *(Site(producer, "image", consumer=consumer) for producer, consumer in pairwise(names)),
    )


def _task(
    name: str,
    make_host: Callable[[], nn.Module],
    sized_host: Callable[[int], nn.Module],
    sites: tuple[Site, ...],
    samples: Samples,
    epochs: int,
) -> Task:
    train, probe, test = in_order(samples, SIZES)
    return Task(
        name=name,
        make_host=make_host,
        sites=sites,
        train=train,
        probe=probe,
        test=test,
        epochs=epochs,
        batch_size=50,
        learning_rate=5e-3,
        source=f"bench:{name}",
        sized_host=sized_host,
    )
