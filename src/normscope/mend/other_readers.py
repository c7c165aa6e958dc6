"""Who else reads the output of a layer: attributes that keep it, and methods beside the forward."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from normscope.user_models.functional_norms import codes_in

TABLES = ("_modules", "_parameters", "_buffers")


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
