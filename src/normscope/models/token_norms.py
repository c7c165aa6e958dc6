"""Normalizations of transformers by name: from a width to a module for tokens (N, T, width)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.models.norms import NormFactory

EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """RMS normalization in its gain's type, under autocast fp32, returned in that of its input."""

    def __init__(self, width: int):
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class OffsetRMSNorm(nn.Module):
    """RMS normalization with the gain 1 + weight, which starts at zero, as in Gemma."""

    def __init__(self, width: int, eps: float = EPS):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        gain = 1 + self.weight
        return F.rms_norm(x.to(gain.dtype), gain.shape, gain, self.eps).to(x.dtype)


class OffsetLayerNorm(nn.Module):
    """Layer normalization with the gain 1 + weight, which starts at zero."""

    def __init__(self, width: int, eps: float = EPS):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return F.layer_norm(x, self.weight.shape, 1 + self.weight, self.bias, self.eps)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalization whose statistics are over all tokens of all sequences of a batch.

    A token's output depends on later tokens of its sequence in train mode: it is not causal.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return super().forward(input.flatten(0, -2)).view_as(input)


class Pointwise(nn.Module):
    """weight * squash(x) + bias with a learned alpha: no statistics, every value by itself."""

    def __init__(self, width: int, alpha: float = 0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.alpha = nn.Parameter(torch.tensor([alpha]))

    def squash(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return self.weight * self.squash(x) + self.bias


class DynamicTanh(Pointwise):
    """weight * tanh(alpha x) + bias with one learned alpha, at first 0.5.

    Zhu et al. 2025, "Transformers without Normalization" (arXiv 2503.10622), equation 2.
    """

    def squash(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)


class DynamicErf(Pointwise):
    """weight * erf(alpha x + shift) + bias with one learned alpha and shift, at first 0.5 and 0.

    Chen et al. 2025, "Stronger Normalization-Free Transformers" (arXiv 2512.10938).
    """

    def __init__(self, width: int, alpha: float = 0.5):
        super().__init__(width, alpha)
        self.shift = nn.Parameter(torch.zeros(1))

    def squash(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)


def _none(width: int) -> nn.Module:
    return nn.Identity()


TOKEN_NORMS: dict[str, NormFactory] = {
    "layer": functools.partial(nn.LayerNorm, eps=EPS),
    "layer-1p": OffsetLayerNorm,
    "rms": RMSNorm,
    "rms-1p": OffsetRMSNorm,
    "dyt": DynamicTanh,
    "derf": DynamicErf,
    "batch": TokenBatchNorm,
    "none": _none,
}
"""The named factories. `none` is an identity: layers keep their names. The gain of `-1p` is
1 + weight.
"""
