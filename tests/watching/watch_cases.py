"""Small networks and loops that the tests of watching share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normscope.models.resnet import SmallResNet

BATCH, CLASSES = 8, 10


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def images(seed: int = 0, n: int = BATCH, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(
        0, CLASSES, (n,), generator=generator
    )


def small_resnet() -> nn.Module:
    return SmallResNet(widths=(4, 8, 8), blocks_per_stage=1)


def group_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 36, CLASSES),
    )


class Transformer(nn.Module):
    """A block of a transformer over the rows of an image, with dropout: it draws random numbers in
    its forward.
    """

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(24, 16)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.1, batch_first=True, norm_first=True
        )
        self.last = nn.RMSNorm(16, eps=1e-6)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x.transpose(1, 2).flatten(2))
        return self.head(self.last(self.block(rows)).mean(1))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 16, CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant)
        return self.head(x.flatten(1))


class Reusing(nn.Module):
    """A network that is unrolled over three steps with one batch norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(192, 6)
        self.norm = nn.BatchNorm1d(6)
        self.again = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for _ in range(3):
            x = self.again(torch.relu(self.norm(x)))
        return self.head(x)


def sgd(model: nn.Module, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **settings)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 3,
    *,
    accumulate: int = 1,
    autocast: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    after: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """The losses of a plain loop."""
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            x, y = images(step * accumulate + part)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(model(x).float(), y)
            losses.append(loss.detach().clone())
            (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        if after is not None:
            after(step + 1)
    return losses
