"""Lightning trains and grows a perceptron on scikit-learn's breast cancer table: its own Trainer, loaders and loop."""

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from esper.lightning import GrowthCallback


def tables():
    """569 rows of 30 columns, two classes, as (train, probe, test)."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = torch.tensor(StandardScaler().fit_transform(rows), dtype=torch.float32)
    return random_split(TensorDataset(rows, torch.tensor(labels)), [349, 100, 120], torch.Generator().manual_seed(0))


class Classifier(pl.LightningModule):
    """A narrow perceptron, and how it is trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, rows):
        """Rows (B, 30) to logits (B, 2)."""
        return self.layers(rows)

    def training_step(self, batch, _number):
        """The loss of a batch."""
        rows, labels = batch
        return functional.cross_entropy(self(rows), labels)

    def configure_optimizers(self):
        """AdamW, its rate on a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def losses(model, data):
    """The cross-entropy of each row of a set, shape (N,), in nats."""
    rows, labels = next(iter(DataLoader(data, batch_size=len(data))))
    return functional.cross_entropy(model(rows), labels, reduction="none")


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    train, probe, test = tables()
    model = Classifier()
    growth = GrowthCallback(lambda model: losses(model, probe), report=lambda model: losses(model, test))
    trainer = pl.Trainer(
        callbacks=[growth],
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(train, batch_size=32, shuffle=True, drop_last=True))
    with torch.no_grad():
        print(f"test loss {losses(model.eval(), test).mean():.4f}")


if __name__ == "__main__":
    main()
