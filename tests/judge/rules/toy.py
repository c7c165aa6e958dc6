"""A small network on synthetic images of ten classes, trained in a second."""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _prototypes() -> torch.Tensor:
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    return F.avg_pool2d(F.pad(noise, (1,) * 4), 3, 1) * 2.5


@functools.cache
def images(
    n: int, seed: int, shift: float = 0.0, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """n smooth prototypes [n, 1, 8, 8] under noise, with their classes [n]."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 10, (n,), generator=generator)
    noise = torch.randn(n, 1, 8, 8, generator=generator)
    return (_prototypes()[classes] + 0.9 * noise) * scale + shift, classes


def train_set():
    return images(3000, 1)


def shifted_set():
    return images(1000, 9, 1.5, 1.5)


def network(bias: bool = False, width: int = 12, **norm) -> nn.Sequential:
    def block(i: int, o: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, stride, 1, bias=bias), nn.BatchNorm2d(o, **norm), nn.ReLU()]

    blocks = [*block(1, width, 2), *block(width, 2 * width, 2), *block(2 * width, 2 * width, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def fit(
    model,
    steps=120,
    batch=64,
    lr=0.05,
    x=None,
    y=None,
    seed=0,
    by_class=False,
    mode="train",
    after=None,
    every=None,
):
    """SGD with momentum. `after(model, step)` runs behind every step."""
    if x is None:
        x, y = train_set()
    generator = torch.Generator().manual_seed(seed)
    if mode != "keep":
        model.train(mode == "train")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9)
    for step in range(steps):
        pool = (y == step % 10).nonzero().flatten() if by_class else torch.arange(len(x))
        index = pool[torch.randint(0, len(pool), (batch,), generator=generator)]
        loss = F.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after is not None:
            after(model, step)
    return model


@functools.cache
def _trained() -> nn.Sequential:
    torch.manual_seed(0)
    return fit(network(), 200)


def trained() -> nn.Sequential:
    """A healthy trained network in eval mode, a new copy each time."""
    return copy.deepcopy(_trained()).eval()


def batches(k=16, n=64, x=None, y=None, seed=3):
    """k batches of n random (input, target) pairs; training data unless given."""
    if x is None:
        x, y = train_set()
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: k * n].split(n)
    return [(x[i], y[i]) for i in index]


@torch.no_grad()
def move_parameters(target: nn.Module, source: nn.Module, share: float) -> None:
    """Move the parameters, and only those, towards the source's."""
    for p, q in zip(target.parameters(), source.parameters(), strict=True):
        p.lerp_(q, share)
