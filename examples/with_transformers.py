"""Hugging Face's Trainer trains and grows a small, randomly initialised GPT-2 on sums such as `12+7=19`."""

import argparse
import tempfile

import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from esper.huggingface import GrowthCallback

SYMBOLS = "0123456789+=. "
LENGTH = 10


class Sums(torch.utils.data.Dataset):
    """`count` sums of two numbers below 100, as ids of characters (LENGTH,), padded by blanks."""

    def __init__(self, count, seed):
        numbers = torch.randint(100, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
        texts = [f"{left}+{right}={left + right}.".ljust(LENGTH) for left, right in numbers]
        self.ids = torch.tensor([[SYMBOLS.index(each) for each in text] for text in texts])

    def __len__(self):
        """How many sums."""
        return len(self.ids)

    def __getitem__(self, number):
        """One sum, as the Trainer wants it."""
        return {"input_ids": self.ids[number], "labels": self.ids[number]}


def losses(model, data):
    """The cross-entropy of each sum, shape (N,), in nats a character."""
    logits = model(input_ids=data.ids).logits
    return functional.cross_entropy(logits[:, :-1].transpose(1, 2), data.ids[:, 1:], reduction="none").mean(1)


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    set_seed(0)
    train, probe, test = Sums(2048, seed=1), Sums(256, seed=2), Sums(256, seed=3)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(SYMBOLS), n_positions=LENGTH, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=64,
            learning_rate=3e-3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        growth = GrowthCallback(lambda model: losses(model, probe), report=lambda model: losses(model, test))
        trainer = Trainer(model=model, args=settings, train_dataset=train, callbacks=[growth])
        trainer.train()
    with torch.no_grad():
        print(f"test loss {losses(model.eval(), test).mean():.4f}")


if __name__ == "__main__":
    main()
