"""Healthy networks of many kinds, trained for a few seconds on scikit-learn's digits or on made-up
sequences.

`check` must find no error in any of them and a warning in at most one of ten. Their examinations
are stored in tests/rules/healthy by `python benchmarks/checking.py healthy`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from normscope.mend import freeze, weight_decay_groups

BATCHES = 12


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 real images [N, 1, 8, 8] in [-1, 1] and their classes."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return images, torch.tensor(found.target)


@functools.cache
def sequences() -> tuple[Tensor, Tensor]:
    """2,000 sequences of 12 tokens out of 20; the class is which of 5 marker tokens comes first."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 20, (2000, 12), generator=generator)
    target = torch.randint(0, 5, (2000,), generator=generator)
    tokens[torch.arange(2000), torch.randint(0, 6, (2000,), generator=generator)] = target
    return tokens, target


@dataclass
class Network:
    """A network, how it is trained, and how it is given to `check`."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]] = digits
    batch: int = 32
    steps: int = 250
    lr: float = 0.05
    optimizer: str = "sgd"
    decay: float = 5e-4
    decay_all: bool = True
    loss: Callable[[Any, Tensor, Tensor], Tensor] = field(
        default=lambda out, x, y: F.cross_entropy(out, y)
    )
    train_mode: bool = False
    average: bool = False
    prepare: Callable[[nn.Module], Any] = field(default=lambda model: None)
    finish: Callable[[nn.Module], Any] = field(default=lambda model: None)


def trained(network: Network) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network after its training, in the mode in which it is checked, and its optimizer."""
    torch.manual_seed(len(network.name) + 7 * network.batch)
    model = network.make()
    network.prepare(model)
    x, y = network.data()
    parameters: Any = [p for p in model.parameters() if p.requires_grad]
    if not network.decay_all:
        parameters = weight_decay_groups(model, network.decay)
    if network.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(
            parameters, network.lr, momentum=0.9, weight_decay=network.decay
        )
    else:
        optimizer = torch.optim.AdamW(parameters, network.lr, weight_decay=network.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, network.lr, total_steps=max(network.steps, 1)
    )
    average = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95)) if network.average else None
    )
    for _ in range(network.steps):
        index = torch.randint(0, len(x), (network.batch,))
        loss = network.loss(model(x[index]), x[index], y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(model)
    network.finish(model)
    if average is not None:
        return average.module.train(network.train_mode), optimizer
    return model.train(network.train_mode), optimizer


def batches(network: Network) -> list[tuple[Tensor, Tensor]]:
    """Training batches of the size it was trained with."""
    x, y = network.data()
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[
        : BATCHES * network.batch
    ]
    return [(x[i], y[i]) for i in index.split(network.batch)]


# -- architectures


def conv(i: int, o: int, stride: int = 1, groups: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False)


def plain(
    width: int = 8, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, act: type = nn.ReLU
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o, stride in ((1, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
        layers += [conv(i, o, stride), norm(o), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


class Residual(nn.Module):
    """Post-activation block, or pre-activation."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module], pre: bool = False):
        super().__init__()
        self.conv1, self.conv2, self.norm1, self.norm2 = (
            conv(width, width),
            conv(width, width),
            norm(width),
            norm(width),
        )
        self.pre = pre

    def forward(self, x):
        if self.pre:
            y = self.conv1(F.relu(self.norm1(x)))
            return x + self.conv2(F.relu(self.norm2(y)))
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + x, inplace=True)


def resnet(
    width=8, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, pre=False, zero=False, drop=0.0
) -> nn.Sequential:
    model = nn.Sequential(
        conv(1, width), norm(width), nn.ReLU(), Residual(width, norm, pre),
        conv(width, 2 * width, 2), norm(2 * width),
        nn.ReLU(), Residual(2 * width, norm, pre), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(drop),
        nn.Linear(2 * width, 10),
    )  # fmt: skip
    if zero:
        for module in model.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.norm2.weight)
    return model


class Inverted(nn.Module):
    """A mobile block: expand, depthwise, project."""

    def __init__(self, width: int, eps: float = 1e-3, momentum: float = 0.01):
        super().__init__()
        wide = 3 * width

        def norm(n: int) -> nn.Module:
            return nn.BatchNorm2d(n, eps=eps, momentum=momentum)

        self.body = nn.Sequential(
            conv(width, wide, size=1), norm(wide), nn.SiLU(), conv(wide, wide, groups=wide),
            norm(wide), nn.SiLU(),
            conv(wide, width, size=1), norm(width),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


def mobile() -> nn.Sequential:
    return nn.Sequential(
        conv(1, 8), nn.BatchNorm2d(8, eps=1e-3, momentum=0.01), nn.SiLU(), Inverted(8),
        nn.AvgPool2d(2), Inverted(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


class Dense(nn.Module):
    """A dense block: every layer reads all before it."""

    def __init__(self, width: int, growth: int = 4, layers: int = 3):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width + k * growth), nn.ReLU(), conv(width + k * growth, growth)
            )
            for k in range(layers)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> nn.Sequential:
    return nn.Sequential(
        conv(1, 8), Dense(8), nn.AvgPool2d(2), nn.BatchNorm2d(20), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(20, 10),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels with a skip; it reconstructs its input."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.down1 = nn.Sequential(conv(1, 8), norm(8), nn.ReLU())
        self.down2 = nn.Sequential(conv(8, 16, 2), norm(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, bias=False)
        self.last = nn.Sequential(norm(16), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, x):
        first = self.down1(x)
        return self.last(torch.cat([first, self.up(self.down2(first))], 1))


def reconstruct(out: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out, x)


def perceptron(
    norm: Callable[[int], nn.Module] = nn.BatchNorm1d, bias: bool = True
) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32, bias=bias), norm(32), nn.ReLU(),
        nn.Linear(32, 32, bias=bias), norm(32),
        nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A transformer block, pre or post norm."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module], pre: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )
        self.norm1, self.norm2, self.pre = norm(width), norm(width), pre

    def forward(self, x):
        if self.pre:
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.mlp(x))


class Transformer(nn.Module):
    """Tokens or 2x2 patches in, classes out."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        pre=True,
        patches=False,
        width=16,
        classes=5,
    ):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2) if patches else None
        self.tokens = nn.Embedding(20, width)
        self.places = nn.Parameter(torch.randn(16, width) * 0.02)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, norm, pre) for _ in range(2)))
        self.norm, self.head = norm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.tokens(x) if self.patches is None else self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(x + self.places[: x.shape[1]])
        return self.head(self.norm(x).mean(1))


class ChannelsLast(nn.Module):
    """A ConvNeXt block: depthwise convolution, LayerNorm over channels that were moved to the last
    axis.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.LayerNorm(width),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x):
        return x + self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    blocks = [
        nn.Conv2d(1, 16, 2, 2),
        ChannelsLast(16),
        ChannelsLast(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(16), nn.Linear(16, 10))


class Recurrent(nn.Module):
    """An LSTM over tokens, normalized features behind it."""

    def __init__(self):
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(20, 12), nn.LSTM(12, 24, batch_first=True)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.norm(self.lstm(self.tokens(x))[0][:, -1]))


class TokenConvolution(nn.Module):
    """One-dimensional convolutions with batch normalization on [N, C, L], rightly transposed."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 12)
        self.body = nn.Sequential(
            nn.Conv1d(12, 12, 3, padding=1, bias=False), nn.BatchNorm1d(12), nn.ReLU(),
            nn.Conv1d(12, 24, 3, padding=1, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.body(self.tokens(x).transpose(1, 2)).mean(2))


class Pyramid(nn.Module):
    """A head that is shared over two scales, each with its own statistics."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU()), conv(8, 8)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        scales = [x, F.avg_pool2d(x, 2)]
        both = [
            F.relu(n(self.head(s))).mean((2, 3)) for n, s in zip(self.norms, scales, strict=True)
        ]
        return {"logits": self.out(both[0] + both[1]), "features": both[0]}


class Generator(nn.Module):
    """A DCGAN decoder behind an encoder: transposed convolutions and N(1, 0.02) weights."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), conv(8, 16, 2), nn.BatchNorm2d(16)
        )
        self.decoder = nn.Sequential(
            nn.LeakyReLU(0.2), nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x):
        return self.decoder(self.encoder(x))


class RMSNorm(nn.Module):
    """RMS normalization as language models write it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x):
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


def bn(**settings: Any) -> Callable[[int], nn.Module]:
    return functools.partial(nn.BatchNorm2d, **settings)


def gn(groups: int) -> Callable[[int], nn.Module]:
    return lambda width: nn.GroupNorm(groups, width)


def frozen_stem(model: nn.Module) -> None:
    """Pretrained statistics stand in for a backbone: a few batches, then a freeze."""
    assert isinstance(model, nn.Sequential)
    for start in range(0, 3 * 1792, 32):
        model.train()(digits()[0][start % 1792 : start % 1792 + 32])
    freeze(model[:3]).requires_grad_(False)


def own_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from normscope.models.registry import build

        return build(name, in_channels=1, num_classes=10, image_size=8)

    return make


ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-3, "decay": 0.05}
TOKENS: dict[str, Any] = {"data": sequences, "steps": 200, **ADAM}

NETWORKS = [
    Network("plain-8", plain, batch=8, lr=0.02, steps=400),
    Network("plain-16", plain, batch=16, lr=0.03, steps=300),
    Network("plain-32", plain),
    Network("plain-64", plain, batch=64),
    Network("plain-128", plain, batch=128, steps=150),
    Network("plain-train-mode", plain, train_mode=True),
    Network("plain-untrained", plain, steps=0),
    Network("plain-momentum-0.01", lambda: plain(norm=bn(momentum=0.01)), steps=500),
    Network("plain-momentum-0.03", lambda: plain(norm=bn(momentum=0.03)), steps=400),
    Network("plain-momentum-0.3", lambda: plain(norm=bn(momentum=0.3))),
    Network("plain-eps-0.001", lambda: plain(norm=bn(eps=1e-3))),
    Network("plain-no-affine", lambda: plain(norm=bn(affine=False))),
    Network("plain-gelu-adamw", lambda: plain(act=nn.GELU), **ADAM),
    Network("plain-no-decay-on-norms", plain, decay_all=False),
    Network("resnet", resnet),
    Network("resnet-16-train-mode", resnet, batch=16, train_mode=True),
    Network("resnet-zero-residual", lambda: resnet(zero=True)),
    Network("resnet-zero-residual-untrained", lambda: resnet(zero=True), steps=0),
    Network("resnet-pre-activation", lambda: resnet(pre=True)),
    Network("resnet-dropout-at-the-end", lambda: resnet(drop=0.3)),
    Network("resnet-average-with-buffers", resnet, average=True),
    Network("resnet-frozen-stem", resnet, prepare=frozen_stem, train_mode=True),
    Network("resnet-group-norm", lambda: resnet(norm=gn(4)), batch=8),
    Network("resnet-one-group", lambda: resnet(norm=gn(1))),
    Network("mobile", mobile, steps=400),
    Network("densenet", densenet),
    Network("unet", UNet, loss=reconstruct),
    Network("unet-instance-norm", lambda: UNet(nn.InstanceNorm2d), loss=reconstruct, batch=4),
    Network("generator", Generator, loss=reconstruct, **ADAM),
    Network("generator-untrained", Generator, steps=0),
    Network("perceptron", perceptron),
    Network("perceptron-64-adamw", perceptron, batch=64, **ADAM),
    Network("perceptron-layer-norm", lambda: perceptron(nn.LayerNorm), **ADAM),
    Network("pyramid", Pyramid, loss=lambda out, x, y: F.cross_entropy(out["logits"], y)),
    Network("convnext", convnext, **ADAM),
    Network("vision-transformer", lambda: Transformer(patches=True, classes=10), steps=200, **ADAM),
    Network("transformer-pre-norm", Transformer, **TOKENS),
    Network("transformer-post-norm", lambda: Transformer(pre=False), **TOKENS),
    Network("transformer-rms-norm", lambda: Transformer(nn.RMSNorm), **TOKENS),
    Network("transformer-foreign-rms-norm", lambda: Transformer(RMSNorm), **TOKENS),
    Network("transformer-untrained", Transformer, data=sequences, steps=0),
    Network("recurrent", Recurrent, **TOKENS),
    Network("token-convolution", TokenConvolution, **TOKENS),
    Network("small-resnet", own_model("small-resnet"), steps=60),
    Network("bird-plane-net", own_model("bird-plane"), steps=100),
]
