"""Which modules are watched, found by type or by name, and what each of them is."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from normscope.errors import InputError, lookup
from normscope.records.recording_header import LayerInfo

# What a layer normalizes over decides what can be recorded of it; see `normscope.watching.observe`.
_KINDS: dict[type[nn.Module], str] = {
    _BatchNorm: "batch",
    _InstanceNorm: "instance",
    nn.GroupNorm: "group",
    nn.LayerNorm: "layer",
    nn.RMSNorm: "rms",
}
_REGISTERED: dict[type[nn.Module], str] = {}

LayerSelector = str | type[nn.Module] | Sequence[str | type[nn.Module]]


@dataclass
class Found:
    """A module to watch, under the name by which its model knows it."""

    name: str
    module: nn.Module
    kind: str
    info: LayerInfo = field(init=False)

    def __post_init__(self):
        self.info = describe(self.name, self.module, self.kind)


def register_normalization(cls: type[nn.Module], kind: str) -> None:
    """Have instances of a class of yours watched as normalization layers.

    Args:
        cls: the class; its subclasses count too. `weight`, `bias`, `running_mean`, `running_var`,
            `eps` and `momentum` are read from attributes of those names, where they exist.
        kind: what it normalizes over: "batch" (statistics per channel over the batch), "instance",
            "group" (per sample over groups of channels), "layer" or "rms" (per sample over the last
            dimensions).
    """
    lookup("kind of normalization", kind, dict.fromkeys(_KINDS.values()))
    _REGISTERED[cls] = kind


def normalization_kind(module: nn.Module) -> str | None:
    """The kind of a normalization layer, by its type; None for any other module."""
    for table in (_REGISTERED, _KINDS):
        for cls, kind in table.items():
            if isinstance(module, cls):
                return kind
    return None


def saves_statistics(module: nn.Module) -> bool:
    """Whether a layer's own operation saves its batch's statistics for backward."""
    return isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm) and not isinstance(
        module, tuple(_REGISTERED)
    )


def find_layers(model: nn.Module, layers: LayerSelector | None = None) -> list[Found]:
    """The modules to watch, in the order of `named_modules`: every normalization layer, or those
    that were asked for.

    Args:
        model: where to look.
        layers: names, globs or types, one or several; they may select any module.

    Raises:
        InputError: if the model has no normalization layer, or a name, glob or type selects
            nothing.
    """
    modules = {name or type(model).__name__: module for name, module in model.named_modules()}
    if layers is None:
        chosen = {name for name, module in modules.items() if normalization_kind(module)}
        if not chosen:
            raise InputError(_no_normalization(model))
    else:
        single = isinstance(layers, str | type)
        chosen = set[str]().union(*(_matches(s, modules) for s in ([layers] if single else layers)))
        if not chosen:
            raise InputError("layers= is empty; leave it out to watch every normalization layer.")
    return [
        Found(name, module, normalization_kind(module) or "activation")
        for name, module in modules.items()
        if name in chosen
    ]


def _matches(selector: str | type[nn.Module], modules: dict[str, nn.Module]) -> set[str]:
    if isinstance(selector, type):
        matches = {name for name, module in modules.items() if isinstance(module, selector)}
        if not matches:
            raise InputError(f"The model has no module of type {selector.__name__}.")
        return matches
    if not isinstance(selector, str):
        raise InputError(f"layers= takes names, globs and types, not {type(selector).__name__}.")
    if selector in modules:
        return {selector}
    matches = set(fnmatch.filter(modules, selector))
    if not matches:
        raise InputError(_no_match(selector, modules))
    return matches


def _no_match(selector: str, modules: dict[str, nn.Module]) -> str:
    near = difflib.get_close_matches(selector, list(modules), n=5, cutoff=0.4)
    norms = [name for name, module in modules.items() if normalization_kind(module)]
    if near:
        return f"No module matches {selector!r}. Near: {', '.join(near)}."
    return f"No module matches {selector!r}. Normalization layers: {_listing(norms)}."


def _no_normalization(model: nn.Module) -> str:
    sounding = sorted(
        {
            type(module).__name__
            for module in model.modules()
            if "norm" in type(module).__name__.lower()
        }
    )
    classes = f" (perhaps {_listing(sounding)})" if sounding else ""
    return (
        f"{type(model).__name__} has no normalization layer of PyTorch's. Name the modules to watch in layers=, or "
        f"make a class{classes} known with normscope.watching.watched_layers.register_normalization."
    )


def _listing(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def describe(name: str, module: nn.Module, kind: str) -> LayerInfo:
    """What is known of a layer before it has run.

    Raises:
        InputError: for a lazy layer that has not seen a batch.
    """
    held = (*module._parameters.values(), *module._buffers.values())
    if any(value is not None and is_lazy(value) for value in held):
        raise InputError(
            f"{name} is a lazy layer that has not seen a batch. Run one batch before watching."
        )
    info = LayerInfo(name=name, type=type(module).__name__, kind=kind)
    if kind == "activation":
        return info
    info.channels = _channels(module)
    info.groups = getattr(module, "num_groups", None) if kind == "group" else None
    info.eps = getattr(module, "eps", None)
    info.momentum = getattr(module, "momentum", None)
    info.affine = isinstance(getattr(module, "weight", None), Tensor)
    info.tracks = isinstance(getattr(module, "running_mean", None), Tensor)
    return info


def _channels(module: nn.Module) -> int | None:
    for name in ("num_features", "num_channels"):
        if isinstance(value := getattr(module, name, None), int):
            return value
    if shape := getattr(module, "normalized_shape", None):
        return math.prod(shape)
    for name in ("weight", "running_mean"):
        if isinstance(value := getattr(module, name, None), Tensor):
            return value.numel()
    return None


def histogram_channels(channels: int, most: int) -> list[int]:
    """The channels that have histograms: an empty list for all of them, else evenly spaced ones."""
    if channels <= most:
        return []
    return [index * channels // most for index in range(most)]
