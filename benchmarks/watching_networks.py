"""The networks of benchmarks/watching.py, written plainly: no dependency on a model library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.models.resnet import SmallResNet


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        project = stride != 1 or channels != out
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if project
            else None
        )
        self.last = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def resnet50() -> nn.Module:
    """ResNet-50 (He et al. 2015): 53 normalization layers, 26,560 channels."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class Transformer(nn.Module):
    """Twelve pre-norm blocks, 256 wide, over 128 tokens: 25 normalization layers."""

    def __init__(self, width: int = 256, depth: int = 12, tokens: int = 1000, heads: int = 4):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        blocks = [
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x)))).mean(1)


@dataclass(frozen=True)
class Task:
    """A network with a batch of its input."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    classes: int


TASKS = {
    "toy": Task(
        "toy transformer, 2 layers, 32 wide, batch 8 of 16 tokens",
        lambda: Transformer(32, 2, 50, 2),
        lambda: torch.randint(0, 50, (8, 16)),
        50,
    ),
    "small-resnet": Task(
        "SmallResNet, batch 128 of 32x32", SmallResNet, lambda: torch.randn(128, 3, 32, 32), 10
    ),
    "resnet-50": Task(
        "ResNet-50, batch 16 of 96x96", resnet50, lambda: torch.randn(16, 3, 96, 96), 1000
    ),
    "transformer": Task(
        "12-layer transformer, batch 16 of 128 tokens",
        Transformer,
        lambda: torch.randint(0, 1000, (16, 128)),
        1000,
    ),
}
