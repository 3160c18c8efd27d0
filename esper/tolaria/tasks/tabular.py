"""`tab` and `tabn`: generated tables with 20 columns, by scikit-learn's `make_classification`.

`tab` has four classes in 32 clusters and every column counts: a wider network is a better one. `tabn` has 500 noisy
rows, a fifth of whose classes are drawn anew, and six columns that count: a larger network learns the noise.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from esper.tolaria.data import Samples
from esper.tolaria.hosts import MLP, mlp_widths
from esper.tolaria.tasks.task import Task, perceptron_sites

COLUMNS: Final = 20
LAYERS: Final = 2


def tab(width: int) -> Task:
    """The task with hidden layers of this width: 8 (276 parameters) is narrow, 128 is big enough."""
    table = make_table(
        6000, n_informative=20, n_classes=4, n_clusters_per_class=8, class_sep=1.5, flip_y=0.02, random_state=7
    )
    return _task("tab", table, (3000, 600, 2400), width=width, classes=4)


def tabn(width: int) -> Task:
    """The task with hidden layers of this width: 8 (258 parameters) is big enough."""
    table = make_table(
        4000, n_informative=6, n_classes=2, n_clusters_per_class=2, class_sep=1.0, flip_y=0.2, random_state=11
    )
    return _task("tabn", table, (500, 500, 3000), width=width, classes=2)


def make_table(rows: int, **shape: Any) -> Samples:
    """Samples with inputs (rows, 20) float32, not yet scaled, and classes (rows,) int64; `shape` is scikit-learn's."""
    # Imported here: it costs a second, and every process that trains imports this file.
    from sklearn.datasets import make_classification  # noqa: PLC0415

    inputs, classes = make_classification(rows, COLUMNS, n_redundant=0, **shape)
    return Samples(torch.from_numpy(inputs).float(), torch.from_numpy(classes).long())


def in_order(samples: Samples, sizes: tuple[int, int, int]) -> list[Samples]:
    """Training, probe and test samples, one after the other, of samples that come in random order.

    Each column is scaled to what has mean 0 and deviation 1 over the training samples.
    """
    train = samples.inputs[: sizes[0]]
    scaled = (samples.inputs - train.mean(dim=0)) / train.std(dim=0)
    parts = zip(torch.split(scaled, list(sizes)), torch.split(samples.targets, list(sizes)), strict=True)
    return [Samples(inputs, targets) for inputs, targets in parts]


def _task(name: str, table: Samples, sizes: tuple[int, int, int], *, width: int, classes: int) -> Task:
    train, probe, test = in_order(table, sizes)

    def sized_host(params: int) -> MLP:
        return MLP(COLUMNS, mlp_widths(params, inputs=COLUMNS, classes=classes, depth=LAYERS), classes, nn.ReLU)

    return Task(
        name=name,
        make_host=lambda: MLP(COLUMNS, [width] * LAYERS, classes, nn.ReLU),
        sites=perceptron_sites(LAYERS),
        train=train,
        probe=probe,
        test=test,
        epochs=40,
        batch_size=50,
        learning_rate=5e-3,
        source=f"builtin:{name}",
        sized_host=sized_host,
    )
