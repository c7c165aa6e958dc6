"""Recognize normalization layers among modules: the one definition.

A module's class and what it holds are a first answer. What a forward of somebody's own does with
it, over which axis for example, `normscope.user_models.norm_behavior` reads from one call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
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
GAIN_NAMES = ("weight", "gamma", "g", "gain", "scale")
BIAS_NAMES = ("bias", "beta", "b")
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NORM = re.compile(r"([acgis]?ln|[cs]?bn|gn|rms|lnf|grn|frn|lrn)$|.*(norm(?!al)|normalization)")
_OTHER_NORMS = {"free", "weight", "spectral", "flow", "vector", "linear", "embedding"}
"""Words beside "norm" in names of what normalizes weights, or nothing."""

_KIND_WORDS = {
    "layer": "layer", "ln": "layer", "rms": "rms", "l": "rms", "scale": "rms", "simple": "rms",
    "instance": "instance", "evo": "group", "response": "group", "graph": "group", "pair": "group",
}  # fmt: skip
"""{word of a class's name: the kind that it says}; L2Norm and ScaleNorm divide by a length. Of the
last it is the nearest: per sample or graph, over several positions.
"""

LOCAL = (nn.LocalResponseNorm, nn.CrossMapLRN2d)
"""PyTorch's own that are called norms and take no statistics of a kind that is judged."""

_AS_PYTORCH = ("normscope.models.norms",)
"""Where a normalization of our networks has a forward that normalizes as PyTorch's does."""

_REGISTERED: dict[type[nn.Module], str] = {}


@dataclass(frozen=True)
class NormLayer:
    """What a module was taken for.

    Attributes:
        kind: batch, instance, group, layer or rms: what its statistics are taken over.
        recognized_by: "registration", "type", "running statistics" (it holds them), "weight and
            epsilon" (a vector and an epsilon, no module inside, as in transformers), "class name"
            (which says the kind; it holds vectors at most), or "name": of its class or attribute
            alone, so that only a call can tell, and the kind is a guess.
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


def words_of(name: str) -> set[str]:
    """Return the words of a name in lower case: {"rms", "norm"} of RMSNorm and rms_norm."""
    return {word.lower() for word in _WORDS.findall(name)}


def says_norm(words: Iterable[str]) -> bool:
    """Tell whether one of these words is that of a normalization: norm, bn, ln, ..."""
    return any(_NORM.match(word) for word in words)


def recognize(module: nn.Module, name: str | None = None) -> NormLayer | None:
    """Return what a module was taken for, None if it is no normalization layer.

    Args:
        module: the module.
        name: its name in the model. With it, what is only called like a normalization and holds
            vectors at most is taken for one too, recognized by "name".
    """
    kind, recognized_by = _kind(module)
    if not kind and name is not None and _may_be_norm(module, name):
        vectors = sum(p.numel() > 1 for p in module.parameters() if not is_lazy(p))
        kind, recognized_by = "layer" if vectors > 1 else "rms", "name"
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
    """Tell whether a module is a normalization layer, whatever a call would show."""
    return bool(_kind(module)[0])


def called_norm(module: nn.Module, name: str) -> bool:
    """Tell whether a module that is not recognized is called like a normalization: by its class, or
    by its attribute where it holds vectors and nothing else.

    PyTorch's own modules are known, and those of our networks, whose dynamic tanh is none; one
    that holds a normalization is a block around it.
    """
    if _is_of(module, ("torch.", "normscope.models.")) and not isinstance(module, LOCAL):
        return False
    by_class = _says_norm_alone(words_of(type(module).__name__))
    by_name = _says_norm_alone(words_of(name.rpartition(".")[2])) and bool(module._parameters)
    named = by_class or (by_name and _holds_vectors(module))
    return named and not _has_norm_inside(module)


def _may_be_norm(module: nn.Module, name: str) -> bool:
    """Tell whether a call could show that a module is a normalization: it is called like one, or
    holds vectors and an epsilon.
    """
    if isinstance(module, LOCAL) or not _holds_vectors(module):
        return False
    with_eps = bool(module._parameters) and _eps(module) is not None
    return called_norm(module, name) or (with_eps and _is_leaf(module))


def _says_norm_alone(words: set[str]) -> bool:
    return says_norm(words) and words.isdisjoint(_OTHER_NORMS)


def _has_norm_inside(module: nn.Module) -> bool:
    return any(
        is_norm(child) or called_norm(child, name)
        for name, child in module.named_modules()
        if child is not module
    )


def _holds_vectors(module: nn.Module) -> bool:
    """Tell whether no parameter, of modules inside too, has several dimensions above one."""
    tensors = [p for p in module.parameters() if not is_lazy(p)]
    return all(sum(size > 1 for size in p.shape) <= 1 for p in tensors)


def normalization_layers(model: nn.Module) -> dict[str, NormLayer]:
    """Return {name: what it was taken for} of every normalization layer, in the model's order."""
    recognized = ((name, recognize(module)) for name, module in model.named_modules())
    return {name: layer for name, layer in recognized if layer is not None}


def batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Yield (name, module) of torch's batch normalization layers, SyncBatchNorm among them."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm))


def _runs_known_forward(module: nn.Module) -> bool:
    """Tell whether a call runs PyTorch's forward, or one of our networks' that does the same."""
    if "forward" in vars(module):
        return False
    return _is_of(module, _AS_PYTORCH) or not forward_override(module)


def _is_of(module: nn.Module, packages: tuple[str, ...]) -> bool:
    return type(module).__module__.startswith(packages)


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
    words = words_of(type(module).__name__)
    known = {} if "local" in words else _KIND_WORDS  # LocalResponseNorm takes no statistics
    kind = next((kind for word, kind in known.items() if word in words), "")
    if kind and _says_norm_alone(words) and _is_leaf(module) and _holds_vectors(module):
        return kind, "class name"
    return "", ""


def machine_eps(dtype: torch.dtype) -> float:
    """Return the epsilon that torch's norms take for `eps=None`: that of the type in which they
    compute, float32 for 16 bits.
    """
    return float(torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps)


def _is_leaf(module: nn.Module) -> bool:
    """Tell whether a module of somebody's own holds none but weightless ones of PyTorch's."""
    if type(module).__module__.startswith("torch."):
        return False
    return all(
        type(child).__module__.startswith("torch.")
        and not is_norm(child)
        and next(child.parameters(), None) is None
        for child in module.children()
    )


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
    gain = gain_of(module)
    for value in (gain, getattr(module, "running_mean", None)):
        if isinstance(value, Tensor) and not is_lazy(value):
            return value.numel() if value.numel() > 1 else None  # one value serves any width
    return None


def gain_of(module: nn.Module) -> Tensor | None:
    """Return the gain: the parameter called weight, gamma, g or scale, or a single other vector."""
    return getattr(module, affine_names(module)["weight"], None)


def affine_names(module: nn.Module) -> dict[str, str]:
    """Return the names of the attributes that are a layer's "weight" and "bias"."""
    held = [name for name, value in module._parameters.items() if value is not None]
    names = {"weight": GAIN_NAMES, "bias": BIAS_NAMES}
    found = {
        what: next((n for n in each if isinstance(getattr(module, n, None), Tensor)), "")
        for what, each in names.items()
    }
    only = held[0] if len(held) == 1 and not any(found.values()) else ""
    return {what: name or (what == "weight" and only) or what for what, name in found.items()}
