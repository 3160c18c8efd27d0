"""A regression on an endless table that is generated as it is read: two inputs in a dict, MAE in millimetres.

Parts come off a machine; ten readings of sensors and the id of the tool tell how far a part is from its measure. An
epoch is as many rows as `--rows` says; every row is new, and none is kept.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

TOOLS = 16


class Parts(IterableDataset):
    """Batches of parts: `readings` (B, 10) and `tool` (B,) as inputs, `deviation` (B, 1) in mm to be learnt.

    Its state is the number of the next batch, so that a loader can go on where it was.
    """

    def __init__(self, batches, *, first=0, size=1024):
        self.batches, self.next, self.size = batches, first, size

    def __iter__(self):
        """The batches of one epoch."""
        for _ in range(self.batches):
            yield self.batch(self.next)
            self.next += 1

    def __len__(self):
        """Batches of one epoch."""
        return self.batches

    def batch(self, number):
        """Batch `number`, always the same."""
        draw = torch.Generator().manual_seed(number)
        readings = torch.randn(self.size, 10, generator=draw)
        tool = torch.randint(TOOLS, (self.size,), generator=draw)
        wear = torch.sin(2.0 * readings[:, 0] * readings[:, 1]) + (tool / TOOLS) * readings[:, 2].abs()
        deviation = wear + 0.5 * readings[:, 3:].tanh().sum(1) + 0.1 * torch.randn(self.size, generator=draw)
        return {"readings": readings, "tool": tool, "deviation": deviation[:, None]}

    def state_dict(self):
        """Where the stream is."""
        return {"next": self.next}

    def load_state_dict(self, state):
        """Go on from there."""
        self.next = state["next"]


class Machine(nn.Module):
    """Readings (B, 10) and the tool's embedding through a narrow perceptron to a deviation (B, 1)."""

    def __init__(self, width=8):
        super().__init__()
        self.tools = nn.Embedding(TOOLS, 4)
        self.first = nn.Linear(14, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs):
        """`inputs` has `readings` and `tool`."""
        hidden = torch.cat([inputs["readings"], self.tools(inputs["tool"])], dim=1)
        return self.head(torch.relu(self.second(torch.relu(self.first(hidden)))))


def errors(model, data):
    """The absolute error of each part of these batches, shape (N,), in mm."""
    return torch.cat([(model(batch) - batch["deviation"]).abs().flatten() for batch in data])


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=131072, help="rows of an epoch; all of all epochs are distinct")
    parser.add_argument("--batch", type=int, default=1024, help="rows of a batch; a row is 52 bytes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = Parts(max(1, arguments.rows // arguments.batch), size=arguments.batch)
    probe, test = [[data.batch(-number) for number in numbers] for numbers in (range(1, 3), range(3, 7))]
    model = Machine()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _epoch in range(arguments.epochs):
        for batch in DataLoader(data, batch_size=None):
            optimizer.zero_grad()
            nn.functional.smooth_l1_loss(model(batch), batch["deviation"]).backward()
            optimizer.step()
    with torch.no_grad():
        print(f"probe MAE {errors(model, probe).mean():.4f} mm, test MAE {errors(model, test).mean():.4f} mm")


if __name__ == "__main__":
    main()
