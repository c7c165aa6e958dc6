"""Which modules of a model are normalization layers: told by their class and what they hold, never by their names."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")


def is_norm(module: nn.Module) -> bool:
    """A normalization layer: torch's own, one with running statistics, or a vector of weights with
    an epsilon.
    """
    if isinstance(module, NORMS) or {"running_mean", "running_var"} <= set(module._buffers):
        return True
    weight = module._parameters.get("weight")
    has_eps = any(isinstance(getattr(module, name, None), float) for name in EPS_NAMES)
    return isinstance(weight, torch.Tensor) and weight.ndim == 1 and has_eps and not module._modules


def batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """(name, module) of every batch normalization layer of torch's, SyncBatchNorm among them."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            yield name, module
