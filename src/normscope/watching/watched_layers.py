"""The modules to watch, selected by type or by name, and the description of each."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normscope.arguments import several
from normscope.errors import InputError, NothingToWatchError
from normscope.records.recording_header import LayerInfo
from normscope.user_models.functional_norms import functional_norms
from normscope.user_models.norm_layers import (
    NormLayer,
    affine_names,
    called_norm,
    is_norm,
    recognize,
)
from normscope.words import listed

LayerSelector = str | type[nn.Module] | Sequence[str | type[nn.Module]]


@dataclass
class MatchedLayer:
    """A module to watch, under its name in the model."""

    name: str
    module: nn.Module
    norm: NormLayer | None  # what it was taken for; None for any other module
    info: LayerInfo = field(init=False)

    def __post_init__(self):
        self.info = describe(self.name, self.module, self.norm)


def find_layers(model: nn.Module, layers: LayerSelector | None = None) -> list[MatchedLayer]:
    """Return the modules to watch, in the order of `named_modules`: those selected, or every
    normalization layer.

    Args:
        model: where to look.
        layers: names, globs or types, one or several; they may select any module.

    Raises:
        InputError: if the model has no normalization layer, or a name, glob or type selects
            nothing.
    """
    modules = {name or type(model).__name__: module for name, module in model.named_modules()}
    if layers is None:
        chosen = {name for name, module in modules.items() if recognize(module, name)}
        if not chosen:
            raise NothingToWatchError(_no_normalization(model))
    else:
        chosen = set[str]().union(*(_matches(s, modules) for s in several("layers", layers)))
        if not chosen:
            raise InputError("layers= is empty; leave it out to watch every normalization layer.")
    return [
        MatchedLayer(name, module, recognize(module, name))
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
    norms = [name for name, module in modules.items() if is_norm(module)]
    if near:
        return f"No module matches {selector!r}. Near: {', '.join(near)}."
    return f"No module matches {selector!r}. Normalization layers: {listed(norms) or 'none'}."


def _no_normalization(model: nn.Module) -> str:
    cls, calls = type(model).__name__, functional_norms(model)
    functions = [f"{call} in {name or cls}" for name, each in calls.items() for call in each]
    modules = model.named_modules()
    similar = sorted({type(m).__name__ for name, m in modules if called_norm(m, name)})
    hidden = f" It calls {listed(functions)}, which nothing can hook." if functions else ""
    perhaps = f" (perhaps {listed(similar)})" if similar else ""
    return (
        f"{cls} has no normalization layer that is known.{hidden} Name the modules to watch in "
        f"layers=, or make a class{perhaps} known with "
        "normscope.user_models.norm_layers.register_normalization."
    )


def describe(name: str, module: nn.Module, norm: NormLayer | None) -> LayerInfo:
    """Return the description of a layer before it has run.

    Raises:
        InputError: for a lazy layer that has not seen a batch.
    """
    tensors = (*module._parameters.values(), *module._buffers.values())
    if any(value is not None and is_lazy(value) for value in tensors):
        raise NothingToWatchError(
            f"{name} is a lazy layer that has not seen a batch. Run one batch before watching."
        )
    values = (getattr(module, name, None) for name in affine_names(module).values())
    affine = [value for value in values if isinstance(value, Tensor)]
    if norm is None:
        return LayerInfo(name=name, type=type(module).__name__, kind="activation")
    return LayerInfo(
        name=name,
        type=type(module).__name__,
        kind=norm.kind,
        channels=norm.channels,
        groups=norm.groups,
        eps=norm.eps,
        momentum=getattr(module, "momentum", None),
        affine=bool(affine),
        tracks=isinstance(getattr(module, "running_mean", None), Tensor),
        trainable=any(value.requires_grad for value in affine) if affine else None,
    )


def histogram_channels(channels: int, most: int) -> list[int]:
    """Return the channels with histograms: an empty list for all, else evenly spaced ones."""
    if channels <= most:
        return []
    return [index * channels // most for index in range(most)]
