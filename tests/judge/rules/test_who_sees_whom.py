"""Padding, later positions, evaluations and train mode: faults that a few forwards show."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.commands.check import check


def alarms(model: nn.Module, batches, **options) -> dict[str, str]:
    """{code: the first layer} of what is more than an info."""
    found = [f for f in check(model, batches, **options) if f.severity != "info"]
    return {finding.code: finding.layer for finding in reversed(found)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- padding


class Tagger(nn.Module):
    """Tokens or frames, a convolution over them, a normalization, and a masked average."""

    def __init__(self, norm: nn.Module, first: nn.Module, last_axis: bool):
        super().__init__()
        self.first, self.conv, self.norm = first, nn.Conv1d(12, 12, 3, padding=1), norm
        self.last_axis, self.head = last_axis, nn.Linear(12, 3)

    def forward(self, x, mask):
        h = self.conv(self.first(x).transpose(1, 2))  # [N, C, L]
        h = self.norm(h.transpose(1, 2)).transpose(1, 2) if self.last_axis else self.norm(h)
        real = mask[:, None].float()
        return self.head((F.gelu(h) * real).sum(2) / real.sum(2))


def padded(tokens: bool) -> dict:
    lengths = torch.tensor([20, 9, 14, 6, 20, 11, 17, 8])
    mask = torch.arange(20)[None] < lengths[:, None]
    x = torch.randint(1, 30, (8, 20), generator=generator())
    if not tokens:
        x = torch.randn(8, 20, 5, generator=generator())
    return {"x": x * mask.view(8, 20, *(1,) * (x.ndim - 2)), "mask": mask}


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    ("norm", "last_axis", "sick"),
    [
        (lambda: nn.GroupNorm(3, 12), False, True),
        (lambda: nn.InstanceNorm1d(12, affine=True), False, True),
        (lambda: nn.LayerNorm((20, 12)), True, True),
        (lambda: nn.LayerNorm(12), True, False),
        (lambda: nn.RMSNorm(12), True, False),
    ],
)
def test_padding_that_a_layer_sees(tokens, norm, last_axis, sick):
    torch.manual_seed(0)
    first = nn.Embedding(30, 12) if tokens else nn.Linear(5, 12)
    model = Tagger(norm(), first, last_axis).eval()
    found = alarms(model, [padded(tokens)], select=["NS510"])
    assert found == ({"NS510": "norm"} if sick else {})


# -- later positions


class CausalConv(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class CausalConv2d(nn.Conv2d):
    """Causal along the last axis, centred along the one before: a spectrogram's."""

    def forward(self, x):
        return super().forward(F.pad(x, (2, 0, 1, 1)))


class CausalConv3d(nn.Conv3d):
    """Causal over frames: [N, C, T, H, W]."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1, 2, 0)))


class StepNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class CumulativeNorm(nn.Module):
    """Over channels and the past."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels, 1)),
            nn.Parameter(torch.zeros(channels, 1)),
        )
        self.eps = 1e-5

    def forward(self, x):
        count = x.shape[1] * torch.arange(1, x.shape[2] + 1)
        mean = x.sum(1, keepdim=True).cumsum(2) / count
        square = x.square().sum(1, keepdim=True).cumsum(2) / count
        x = (x - mean) / (square - mean.square() + self.eps).sqrt()
        return x * self.weight + self.bias


class Decoder(nn.Module):
    """Causal attention over tokens, with a normalization behind it."""

    def __init__(self, norm: nn.Module, *, over_time: bool, causal: bool = True):
        super().__init__()
        self.tokens, self.norm, self.over_time = nn.Embedding(40, 16), norm, over_time
        self.qkv, self.head, self.causal = nn.Linear(16, 48), nn.Linear(16, 40), causal

    def forward(self, ids):
        x = self.tokens(ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.over_time else self.norm(x)
        return self.head(x)


def signals(*shape: int) -> list[torch.Tensor]:
    return [torch.randn(8, *shape, generator=generator(k)) for k in range(2)]


def ids() -> list[torch.Tensor]:
    return [torch.randint(0, 40, (8, 24), generator=generator(k)) for k in range(2)]


def stack(conv, channels: int, norm, **options) -> nn.Module:
    return nn.Sequential(
        conv(1, channels, 3, **options), norm, nn.ReLU(), conv(channels, 1, 3, **options)
    )


SEES = {
    "group over time": (lambda: stack(CausalConv, 8, nn.GroupNorm(2, 8)), (1, 48)),
    "dilated": (lambda: stack(CausalConv, 8, nn.GroupNorm(8, 8), dilation=4), (1, 48)),
    "instance over time": (lambda: stack(CausalConv, 8, nn.InstanceNorm1d(8)), (1, 40)),
    "channels and time": (lambda: stack(CausalConv, 8, nn.LayerNorm((8, 40))), (1, 40)),
    "spectrogram": (lambda: stack(CausalConv2d, 6, nn.GroupNorm(2, 6)), (1, 9, 32)),
    "video": (lambda: stack(CausalConv3d, 6, nn.GroupNorm(2, 6)), (1, 8, 5, 5)),
    "decoder": (lambda: Decoder(nn.GroupNorm(4, 16), over_time=True), None),
}
BLIND = {
    "per step": (lambda: stack(CausalConv, 8, StepNorm(8)), (1, 48)),
    "cumulative": (lambda: stack(CausalConv, 8, CumulativeNorm(8)), (1, 48)),
    "batch": (lambda: stack(CausalConv, 8, nn.BatchNorm1d(8)), (1, 48)),
    "centred": (lambda: stack(nn.Conv1d, 8, nn.GroupNorm(2, 8), padding=1), (1, 48)),
    "images": (lambda: stack(nn.Conv2d, 8, nn.GroupNorm(2, 8), padding=1), (1, 16, 16)),
    "strided": (lambda: stack(nn.Conv2d, 8, nn.GroupNorm(2, 8), stride=2, padding=1), (1, 32, 32)),
    "strided volumes": (
        lambda: stack(nn.Conv3d, 4, nn.InstanceNorm3d(4), stride=2, padding=1),
        (1, 16, 16, 16),
    ),
    "points": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv1d(8, 2, 1)),
        (3, 32),
    ),
    "patches": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)),
        (1, 32, 32),
    ),
    "decoder": (lambda: Decoder(nn.RMSNorm(16), over_time=False), None),
    "encoder": (lambda: Decoder(nn.GroupNorm(4, 16), over_time=True, causal=False), None),
}


@pytest.mark.parametrize("name", SEES)
def test_a_layer_that_sees_later_positions_is_named(name):
    torch.manual_seed(0)
    make, shape = SEES[name]
    found = alarms(make().eval(), signals(*shape) if shape else ids(), select=["NS514"])
    assert found == {"NS514": "norm" if name == "decoder" else "1"}


@pytest.mark.parametrize("name", BLIND)
def test_layers_that_do_not_or_may_are_left_alone(name):
    torch.manual_seed(0)
    make, shape = BLIND[name]
    assert not alarms(make().eval(), signals(*shape) if shape else ids(), select=["NS514"])


# -- state that moves in eval mode


class Normalizer(nn.Module):
    """Running statistics by hand; `asks` for the mode, or does not."""

    def __init__(self, features, names=("running_mean", "running_var"), *, asks=False, rate=0.1):
        super().__init__()
        self.names, self.asks, self.rate = names, asks, rate
        self.register_buffer(names[0], torch.zeros(features))
        self.register_buffer(names[1], torch.ones(features))

    def forward(self, x):
        mean, var = (getattr(self, name) for name in self.names)
        out = (x - mean) / (var + 1e-5).sqrt()
        if self.training or not self.asks:
            rows = x.detach().flatten(0, -2)
            mean.lerp_(rows.mean(0), self.rate)
            setattr(self, self.names[1], torch.lerp(var, rows.var(0), self.rate))  # a new tensor
        return out


@pytest.mark.parametrize("names", [("running_mean", "running_var"), ("obs_mean", "obs_std_sq")])
@pytest.mark.parametrize("rate", [0.1, 1e-4])
def test_statistics_that_move_in_eval_mode(names, rate):
    torch.manual_seed(0)
    batches = [3 + torch.randn(16, 6, generator=generator(k)) for k in range(3)]
    sick = nn.Sequential(nn.Linear(6, 6), Normalizer(6, names, rate=rate), nn.Linear(6, 2)).eval()
    before = {name: value.clone() for name, value in sick.state_dict().items()}
    found = alarms(sick, batches)
    assert found["NS307"] == "1"
    assert "NS503" not in found  # one that knows the other samples' past is not random
    assert all(torch.equal(value, before[name]) for name, value in sick.state_dict().items())
    well = nn.Sequential(nn.Linear(6, 6), Normalizer(6, names, asks=True), nn.Linear(6, 2)).eval()
    assert "NS307" not in alarms(well, batches)


class Cached(nn.Module):
    """A table that grows with the longest input, and is in no checkpoint."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(0), persistent=False)

    def forward(self, x):
        if len(self.table) < x.shape[-1]:
            self.table = torch.linspace(0, 1, x.shape[-1])
        return x + self.table[: x.shape[-1]]


def test_what_is_no_state_may_change():
    model = nn.Sequential(Cached(), nn.LayerNorm(16), nn.Dropout(), nn.Linear(16, 2)).eval()
    assert not alarms(model, [torch.randn(8, 16, generator=generator())])


# -- train mode


class Chunked(nn.Module):
    """Ghost batches: chunks of the batch in train mode."""

    def __init__(self, features, size):
        super().__init__()
        self.size, self.bn = size, nn.BatchNorm1d(features)

    def forward(self, x):
        return torch.cat([self.bn(c) for c in x.split(self.size)]) if self.training else self.bn(x)


class Trains(nn.Module):
    """What differs in train mode: by a function."""

    def __init__(self, train):
        super().__init__()
        self.norm, self.train_forward, self.head = nn.LayerNorm(16), train, nn.Linear(16, 2)

    def forward(self, x, targets=None):
        h = self.norm(x)
        return self.train_forward(self, h, targets) if self.training else self.head(h)


def penalized(self, h, targets):
    h = h.detach().requires_grad_()
    out = self.head(h)
    return out - torch.autograd.grad(out.sum(), h)[0].square().mean()


def with_targets(self, h, targets):
    if targets is None:
        raise ValueError("targets should not be none when in training mode")
    return self.head(h)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (lambda: nn.Sequential(nn.Linear(16, 4), Chunked(4, 8)), "1.bn"),
        (lambda: nn.Sequential(Chunked(16, 16), nn.Linear(16, 2)), "0.bn"),
        (lambda: Trains(lambda self, h, targets: self.head(h[:, :3])), "head"),
    ],
)
def test_a_train_mode_that_raises_is_found(model, layer):
    found = alarms(model().eval(), [torch.randn(33, 16, generator=generator())])
    assert found == {"NS308": layer}


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(16, 4), Chunked(4, 11)),
        lambda: Trains(penalized),
        lambda: Trains(with_targets),
        lambda: nn.Sequential(nn.Linear(16, 4), nn.SyncBatchNorm(4), nn.Dropout()),
    ],
)
def test_a_train_mode_that_runs_is_not(model):
    assert not alarms(model().eval(), [torch.randn(33, 16, generator=generator())])
