"""A small convolutional network with BatchNorm learns scikit-learn's digits.

SGD with momentum, OneCycleLR, bf16 autocast and accumulation over two batches: `plain/vision.py`, and it grows.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import esper

ACCUMULATE = 2


def digits():
    """1,797 images of 8 x 8 pixels, as (train, probe, test)."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
    return torch.utils.data.random_split(data, [1097, 300, 400], torch.Generator().manual_seed(0))


def network():
    """Two narrow convolutions and a linear head: too small for the task, on purpose."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def losses(model, data):
    """The cross-entropy of each sample of a set, shape (N,), in nats."""
    images, labels = next(iter(DataLoader(data, batch_size=len(data))))
    return functional.cross_entropy(model(images), labels, reduction="none")


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train, probe, test = digits()
    loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = arguments.epochs * (len(loader) // ACCUMULATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps + 1)
    with esper.grow(
        model,
        optimizer,
        probe=lambda model: losses(model, probe),
        epochs=arguments.epochs,
        scheduler=scheduler,
        loader=loader,
        accumulate=ACCUMULATE,
    ) as run:
        for epoch in run.epochs():
            model.train()
            for images, labels in run.batches(loader):

                def batch_loss(images=images, labels=labels):
                    with torch.autocast("cpu", torch.bfloat16):
                        return functional.cross_entropy(model(images), labels)

                loss = run.step(batch_loss)
                if run.stepped:
                    scheduler.step()
            print(f"epoch {epoch + 1}: training loss {loss.item():.4f}", flush=True)
        run.report(lambda model: losses(model, test))
    model.eval()
    with torch.no_grad():
        print(f"probe loss {losses(model, probe).mean():.4f}, test loss {losses(model, test).mean():.4f}")


if __name__ == "__main__":
    main()
