"""Normalization layers as model libraries write them, and what each does, slowly in float64.

Maps are exactly as wide and as high as there are channels: only what a layer did tells its axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 6
EPS = 1e-5


class PermutedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FunctionalLayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()


class ArithmeticLayerNorm(nn.Module):
    def __init__(self, channels, eps=EPS):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.eps = eps

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class SubclassedArithmeticLayerNorm(nn.LayerNorm):
    def forward(self, x):
        var, mean = torch.var_mean(x, 1, unbiased=False, keepdim=True)
        x = (x - mean) * torch.rsqrt(var + self.eps)
        return (
            x if self.weight is None else x * self.weight[:, None, None] + self.bias[:, None, None]
        )


class BiasFreeLayerNorm(nn.Module):
    """A weight and an epsilon alone, as an RMSNorm has; but it centers, as Cohere's does."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(channels)), EPS

    def forward(self, hidden_states):
        x = hidden_states.float()
        x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight * x).to(hidden_states.dtype)


class LlamaRMSNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(channels)), EPS

    def forward(self, hidden_states):
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x.to(hidden_states.dtype)


class GemmaRMSNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.eps, self.weight = EPS, nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return x * (1.0 + self.weight.float())


class OnePlusRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, eps=self.eps) * (1 + self.weight)


class ChannelsFirstRMSNorm(nn.RMSNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GroupNorm1(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(1, channels)

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class GroupNorm32(nn.GroupNorm):
    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


class GroupNormAct(nn.GroupNorm):
    def forward(self, x):
        return F.silu(F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


class ChannelsLastGroupNorm(nn.GroupNorm):
    def forward(self, x):
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class BatchNormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x), inplace=True)


class BatchNormActDrop(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the function itself, then modules."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x):
        self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            0.1,
            self.eps,
        )
        return self.act(self.drop(x))


class BatchNormOwnAffine(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, affine=False)
        self.gamma, self.beta = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x):
        return super().forward(x) * self.gamma[:, None, None] + self.beta[:, None, None]


class ChannelsLastBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ChannelsLastBatchNormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.gelu(super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ArithmeticBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        var, mean = torch.var_mean(x, (0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (var + self.eps).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class InstanceNormAct(nn.InstanceNorm2d):
    def forward(self, x):
        return F.leaky_relu(super().forward(x), 0.2)


class RMSInLayerNormsClothes(nn.LayerNorm):
    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Pair(nn.LayerNorm):
    """Returns the normalized value and what it was made of, as fused residual norms do."""

    def forward(self, inputs):
        return super().forward(inputs["x"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), inputs["x"]


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    kind: str
    axis: int = 1
    groups: int | None = None
    call: Callable[[nn.Module, Tensor], object] = lambda norm, x: norm(x)


C = CHANNELS
CASES = {
    "layer norm by permute": Case(lambda: PermutedLayerNorm(C), "layer"),
    "layer norm by permute without affine": Case(
        lambda: PermutedLayerNorm(C, elementwise_affine=False), "layer"
    ),
    "layer norm by function": Case(lambda: FunctionalLayerNorm2d(C), "layer"),
    "layer norm by arithmetic": Case(lambda: ArithmeticLayerNorm(C), "layer"),
    "layer norm by var_mean": Case(lambda: SubclassedArithmeticLayerNorm(C), "layer"),
    "layer norm by var_mean without affine": Case(
        lambda: SubclassedArithmeticLayerNorm(C, elementwise_affine=False), "layer"
    ),
    "layer norm without bias": Case(lambda: BiasFreeLayerNorm(C), "layer", -1),
    "rms of llama": Case(lambda: LlamaRMSNorm(C), "rms", -1),
    "rms of gemma": Case(lambda: GemmaRMSNorm(C), "rms", -1),
    "rms with 1 + w": Case(lambda: OnePlusRMSNorm(C, eps=EPS), "rms", -1),
    "rms over channels first": Case(lambda: ChannelsFirstRMSNorm(C, eps=EPS), "rms"),
    "rms in a layer norm's class": Case(lambda: RMSInLayerNormsClothes(C), "rms", -1),
    "group norm of one group": Case(lambda: GroupNorm1(C), "group", groups=1),
    "group norm in float32": Case(lambda: GroupNorm32(3, C), "group", groups=3),
    "group norm with activation": Case(lambda: GroupNormAct(2, C), "group", groups=2),
    "group norm channels last": Case(lambda: ChannelsLastGroupNorm(2, C), "group", -1, 2),
    "batch norm with activation": Case(lambda: BatchNormAct(C), "batch"),
    "batch norm with module activation": Case(lambda: BatchNormActDrop(C), "batch"),
    "batch norm with own affine": Case(lambda: BatchNormOwnAffine(C), "batch"),
    "batch norm channels last": Case(lambda: ChannelsLastBatchNorm(C), "batch", -1),
    "batch norm channels last with activation": Case(
        lambda: ChannelsLastBatchNormAct(C), "batch", -1
    ),
    "batch norm by arithmetic": Case(lambda: ArithmeticBatchNorm(C), "batch"),
    "instance norm with activation": Case(lambda: InstanceNormAct(C), "instance"),
    "layer norm of a dict": Case(lambda: Pair(C), "layer", call=lambda norm, x: norm({"x": x})),
    "layer norm of a keyword": Case(
        lambda: FunctionalLayerNorm2d(C), "layer", call=lambda norm, x: norm(x=x)
    ),
}


def varied(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch [8, C, C, C] whose mean and spread differ along every axis."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, shape = 8, (8, C, C, C)
    spread = sum(
        draw(*(size if axis == k else 1 for k in range(4))) for axis, size in enumerate(shape)
    )
    offset = sum(
        draw(*(size if axis == k else 1 for k in range(4))) for axis, size in enumerate(shape)
    )
    return (draw(n, C, C, C) * (0.4 * spread).exp() + offset).to(dtype)


def with_gains(norm: nn.Module) -> nn.Module:
    """The layer with gains and biases that differ from channel to channel."""
    generator = torch.Generator().manual_seed(9)
    for parameter in norm.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return norm


def channels_first(values: Tensor, axis: int) -> Tensor:
    """float64 [C, everything else]."""
    return values.detach().double().movedim(axis, 0).flatten(1)


def sets(x: Tensor, case: Case) -> Tensor:
    """float64 [samples, G, values] of what the layer takes a mean and a variance of."""
    x = x.detach().double().movedim(case.axis, 1)
    if case.kind in ("layer", "rms"):
        return x.movedim(1, -1).reshape(-1, 1, C)
    groups = C if case.kind == "instance" else case.groups
    return x.reshape(len(x), groups, -1)
