"""Two processes train one network by DistributedDataParallel over gloo.

torchrun --nproc-per-node 2 examples/plain/distributed.py
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split


def digits():
    """1,797 images of 64 pixels, as (train, probe, test)."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    return random_split(data, [1097, 300, 400], torch.Generator().manual_seed(0))


def losses(model, data):
    """The cross-entropy of each sample of a set, shape (N,), in nats."""
    images, labels = next(iter(DataLoader(data, batch_size=len(data))))
    return functional.cross_entropy(model(images), labels, reduction="none")


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    distributed.init_process_group("gloo")
    torch.manual_seed(distributed.get_rank())  # other dropout on each rank; the weights are rank 0's on all
    train, probe, test = digits()
    sampler = DistributedSampler(train, seed=0, drop_last=True)
    loader = DataLoader(train, batch_size=16, sampler=sampler, drop_last=True)
    network = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(arguments.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if distributed.get_rank() == 0:
            print(f"epoch {epoch + 1}", flush=True)
    if distributed.get_rank() == 0:
        with torch.no_grad():
            print(f"probe loss {losses(network, probe).mean():.4f}, test loss {losses(network, test).mean():.4f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
