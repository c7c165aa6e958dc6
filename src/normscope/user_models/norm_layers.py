"""Recognize normalization layers among modules: the one definition.

A module's class and what it holds are a first answer. What a forward of somebody's own does with
it, over which axis for example, `normscope.user_models.norm_behavior` reads from one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from normscope.errors import lookup
from normscope.user_models.plain_layers import forward_override

KINDS: dict[type[nn.Module], str] = {
    _BatchNorm: "batch",
    _InstanceNorm: "instance",
    nn.GroupNorm: "group",
    nn.LayerNorm: "layer",
    nn.RMSNorm: "rms",
}
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")

_REGISTERED: dict[type[nn.Module], str] = {}


@dataclass(frozen=True)
class NormLayer:
    """What a module was taken for.

    Attributes:
        kind: batch, instance, group, layer or rms: what its statistics are taken over.
        recognized_by: "registration", "type", "running statistics" (it holds them) or "weight and
            epsilon" (a vector and an epsilon, no module inside, as in transformers).
        plain: whether its forward is PyTorch's own, so that the class says what it does. Else only
            a call shows the channels' axis, and what comes behind the normalization.
        channels: channels, or the values of a normalized shape; None if only a call shows them.
        groups: of a group normalization, else None.
        normalized_dims: how many last dimensions a layer or RMS normalization takes together, 0 for
            the other kinds.
        eps: the epsilon, None where it has none or takes that of the input's type.
    """

    kind: str
    recognized_by: str
    plain: bool
    channels: int | None
    groups: int | None
    normalized_dims: int
    eps: float | None


def register_normalization(cls: type[nn.Module], kind: str) -> None:
    """Have instances of a class of yours taken for normalization layers.

    Args:
        cls: the class; its subclasses count too. `weight`, `bias`, `running_mean`, `running_var`,
            `eps` and `momentum` are read from attributes of those names, where they exist.
        kind: what it normalizes over: "batch" (statistics per channel over the batch), "instance",
            "group" (per sample over groups of channels), "layer" or "rms" (per sample over the last
            dimensions).
    """
    lookup("kind of normalization", kind, dict.fromkeys(KINDS.values()))
    _REGISTERED[cls] = kind


def recognize(module: nn.Module) -> NormLayer | None:
    """Return what a module was taken for, None if it is no normalization layer."""
    kind, recognized_by = _kind(module)
    if not kind:
        return None
    shape = getattr(module, "normalized_shape", None)
    dims = len(shape) if isinstance(shape, tuple | list) else 1
    return NormLayer(
        kind=kind,
        recognized_by=recognized_by,
        plain=_runs_known_forward(module),
        channels=_channels(module),
        groups=getattr(module, "num_groups", None) if kind == "group" else None,
        normalized_dims=dims if kind in ("layer", "rms") else 0,
        eps=_eps(module),
    )


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a normalization layer."""
    return bool(_kind(module)[0])


def normalization_layers(model: nn.Module) -> dict[str, NormLayer]:
    """Return {name: what it was taken for} of every normalization layer, in the model's order."""
    recognized = ((name, recognize(module)) for name, module in model.named_modules())
    return {name: layer for name, layer in recognized if layer is not None}


def batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Yield (name, module) of torch's batch normalization layers, SyncBatchNorm among them."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm))


def _runs_known_forward(module: nn.Module) -> bool:
    """Tell whether calling a module runs PyTorch's forward, or one of normscope's own networks'."""
    if "forward" in vars(module):
        return False
    return type(module).__module__.startswith("normscope.models.") or not forward_override(module)


def _kind(module: nn.Module) -> tuple[str, str]:
    """Return kind and `recognized_by`, two empty strings for any other module."""
    for table, reason in ((_REGISTERED, "registration"), (KINDS, "type")):
        for cls, kind in table.items():
            if isinstance(module, cls):
                return kind, reason
    if {"running_mean", "running_var"} <= set(module._buffers):
        return "batch", "running statistics"
    weight = module._parameters.get("weight")
    vector = weight is not None and not is_lazy(weight) and weight.ndim == 1
    if vector and not module._modules and len(module._parameters) <= 2 and _eps(module) is not None:
        kind = "layer" if module._parameters.get("bias") is not None else "rms"
        return kind, "weight and epsilon"
    return "", ""


def machine_eps(dtype: torch.dtype) -> float:
    """Return the epsilon that torch's norms take for `eps=None`: that of the type in which they
    compute, float32 for 16 bits.
    """
    return float(torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)


def _eps(module: nn.Module) -> float | None:
    values: Iterator[Any] = (getattr(module, name, None) for name in EPS_NAMES)
    numbers = (v for v in values if isinstance(v, float | int) and not isinstance(v, bool))
    return next((float(value) for value in numbers), None)


def _channels(module: nn.Module) -> int | None:
    for name in ("num_features", "num_channels"):
        if isinstance(value := getattr(module, name, None), int):
            return value
    if isinstance(shape := getattr(module, "normalized_shape", None), tuple | list):
        return math.prod(shape)
    for name in ("weight", "running_mean"):
        value = getattr(module, name, None)
        if isinstance(value, Tensor) and not is_lazy(value):
            return value.numel()
    return None
