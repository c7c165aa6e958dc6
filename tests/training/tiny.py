"""The smallest training that has everything: uneven batches, batch normalization, a schedule."""

from dataclasses import dataclass

import torch
from torch import nn

from normscope.training.loop import Callback


class TinyBatches:
    """Two classes of noise images in uneven batches, in an order that depends on (seed, epoch)."""

    unit = "image"
    train_batches, test_batches = 3, 2

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(10, 2, 4, 4, generator=generator)
        self.labels = torch.tensor([0, 1] * 5)
        self.order = torch.arange(10)

    def begin(self, seed, epoch):
        self.order.copy_(
            torch.randperm(10, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        )

    def train_size(self, index):
        return (4, 4, 2)[index]

    def train_at(self, index, size):
        rows = self.order.index_select(0, 4 * index + torch.arange(size))
        return self.images.index_select(0, rows), self.labels.index_select(0, rows)

    def test_size(self, index):
        return (7, 3)[index]

    def test_at(self, index, size):
        rows = 7 * index + torch.arange(size)
        return self.images.index_select(0, rows) + 0.1, self.labels.index_select(0, rows)

    def train(self, seed, epoch):
        self.begin(seed, epoch)
        for part in self.order.split(4):
            yield self.images[part], self.labels[part]

    def test(self, limit=None):
        for part in list(torch.arange(10).split(7))[:limit]:
            yield self.images[part] + 0.1, self.labels[part]


def tiny_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 2),
        )


@dataclass(frozen=True)
class Settings:
    epochs: int = 4
    seed: int = 3
    learning_rate: float = 0.1
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    optimizer: str = "sgd"
    warmup: int = 0
    clip: float = 0.0
    iterations: int = 0
    decay_spares: str = "nothing"
    device: str = "cpu"
    precision: str = "fp32"


PLAN = Settings()


class Keep(Callback):
    """Keeps every epoch; its state as bytes, for the live one changes under it."""

    def __init__(self):
        self.epochs, self.states = [], []

    def on_epoch(self, epoch):
        self.epochs.append(epoch)
        self.states.append(epoch.state.to_bytes())

    def numbers(self):
        """The scalars of every epoch, without durations."""
        return [
            {k: v for k, v in epoch.scalars.items() if "second" not in k} for epoch in self.epochs
        ]
