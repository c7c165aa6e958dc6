"""The ways that a forward takes through convolutions, linear and normalization layers, and what
reads a layer's output beside it: attributes that keep it, and methods.
"""

from __future__ import annotations

import dis
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from normscope.user_models.functional_norms import codes_in
from normscope.user_models.norm_layers import recognize

WEIGHTED = (_ConvNd, nn.Linear)
TABLES = ("_modules", "_parameters", "_buffers")


@dataclass
class Path:
    """One way through a forward: what it does with the layers that are followed, each by its name.

    Attributes:
        calls: how often each layer is called.
        edges: {(layer, another that gets its output as its only input): how often}.
        ranks: {layer: the number of dimensions of what it gets}, where that is certain.
        others: {layer: how often its output is read by anything else}.
        read: layers with a weight or statistic that is read elsewhere than in their own forward.
        argued: layers that are called with more than their input.
        trained: layers that the forward itself puts into train mode.
        operations: (kind, target) of every operation, in order; empty where batches were observed.
    """

    calls: Counter[str] = field(default_factory=Counter)
    edges: Counter[tuple[str, str]] = field(default_factory=Counter)
    ranks: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    read: set[str] = field(default_factory=set)
    argued: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)
    operations: list[tuple[str, str]] = field(default_factory=list)

    def source(self, name: str) -> str:
        """The layer whose output another one gets at every call; empty if there is none."""
        sources = [source for (source, reader), n in self.edges.items()
                   if reader == name and n == self.calls[name]]  # fmt: skip
        return sources[0] if sources else ""

    def readers(self, name: str) -> set[str]:
        """The layers that get the output of another one."""
        return {reader for source, reader in self.edges if source == name}


def followed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} of the layers that a path tells about, each once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED)
        or is_matrix(module)
        or norm_kind(module) in ("batch", "layer", "rms")
    }


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module of somebody's own holds one matrix, as a linear layer does."""
    weight = module._parameters.get("weight")
    return (
        weight is not None
        and not is_lazy(weight)
        and weight.ndim == 2
        and not module._modules
        and set(module._parameters) <= {"weight", "bias"}
        and not type(module).__module__.startswith("torch.")
    )


def is_row_norm(module: nn.Module) -> bool:
    """Tell whether a module was taken for a layer or RMS normalization."""
    return norm_kind(module) in ("layer", "rms")


def is_batch_norm(module: nn.Module) -> bool:
    """Tell whether a module normalizes by statistics of a batch, whatever its class."""
    return norm_kind(module) == "batch"


def norm_kind(module: nn.Module) -> str:
    """The kind of a normalization layer; empty for any other module, and for one that holds a
    convolution itself: that is no layer, but a part of the model.
    """
    layer = recognize(module)
    holds_weights = any(isinstance(inner, WEIGHTED) for inner in module.modules())
    return layer.kind if layer is not None and not holds_weights else ""


def tensor_owners(model: nn.Module) -> dict[int, set[str]]:
    """{id of a parameter or buffer: the followed layers that hold it}."""
    owners: dict[int, set[str]] = {}
    for name, layer in followed_layers(model).items():
        for tensor in (*layer.parameters(), *layer.buffers()):
            owners.setdefault(id(tensor), set()).add(name)
    return owners


def plain_values(module: nn.Module) -> Iterator[Any]:
    """What a module's plain attributes hold, also in lists, tuples, sets and dicts."""
    values = [v for name, v in vars(module).items() if name not in TABLES and "_hooks" not in name]
    seen: set[int] = set()
    while values:
        value = values.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple | set | frozenset):
            values.extend(value)
        elif isinstance(value, dict):
            values.extend(value.values())
        else:
            yield value


def method_without(model: nn.Module, weighted: str, norm: str) -> str:
    """Name a method that calls a layer without the normalization behind it, and that no forward of
    the model seems to call: a fold would change what it returns. Empty if there is none.
    """
    owner, _, attribute = weighted.rpartition(".")
    beside, _, companion = norm.rpartition(".")
    methods = _methods(type(model.get_submodule(owner)))
    reached = _reached(model)
    for name, code in methods.items():
        called = _called(code)
        together = owner == beside and companion in called
        if name not in reached and attribute in called and not together:
            return f"{type(model.get_submodule(owner)).__name__}.{name}"
    return ""


def _methods(cls: type[nn.Module]) -> dict[str, CodeType]:
    """{name: code} of what a class defines beyond nn.Module, dunder methods left out."""
    found: dict[str, CodeType] = {}
    for base in cls.__mro__:
        if not issubclass(base, nn.Module) or base is nn.Module:
            continue
        for name, value in vars(base).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, FunctionType) and not name.startswith("__"):
                found.setdefault(name, function.__code__)
    return found


def _reached(model: nn.Module) -> set[str]:
    """The names of methods that a forward of the model names, or a method that one names."""
    codes: dict[str, list[CodeType]] = {}
    for cls in {type(module) for module in model.modules()}:
        if not cls.__module__.startswith("torch."):
            for name, code in _methods(cls).items():
                codes.setdefault(name, []).append(code)
    reached, waiting = {"forward"}, ["forward"]
    while waiting:
        named = {
            n for code in codes.get(waiting.pop(), ()) for c in codes_in(code) for n in c.co_names
        }
        new = (named & codes.keys()) - reached
        reached |= new
        waiting.extend(new)
    return reached


def _called(code: CodeType) -> set[str]:
    """The attributes that a function calls, as `self.conv(x)` does; `self.conv.weight` does not."""
    return {
        instruction.argval
        for nested in codes_in(code)
        for instruction in dis.get_instructions(nested)
        if instruction.opname == "LOAD_METHOD"
        or (instruction.opname == "LOAD_ATTR" and sys.version_info >= (3, 12)
            and (instruction.arg or 0) & 1)
    }  # fmt: skip
