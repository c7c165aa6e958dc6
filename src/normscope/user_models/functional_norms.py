"""Find calls of PyTorch's normalization functions in forwards of somebody's own, without a call.

`torch.nn.functional.layer_norm` in a forward, or a layer that is made there, is no module: nothing
can hook it. The code of the classes says where there are some.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from normscope.user_models.norm_layers import KINDS, called_norm, is_norm, says_norm, words_of

NAMES = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
_FUNCTIONS = {
    id(found): f"{prefix}.{name}"
    for prefix, module in (("torch", torch), ("F", F))
    for name in NAMES
    if (found := getattr(module, name, None)) is not None
}
_WEIGHTED = (_ConvNd, nn.Linear)
"""Subclasses of these normalize their weights."""


def functional_norms(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return {name of a module: what its code calls}, such as ("F.layer_norm",), of modules that
    are no normalization layers themselves, nor a library's wrapper of one.
    """
    found = {}
    for name, module in model.named_modules():
        known = is_norm(module) or isinstance(module, _WEIGHTED) or called_norm(module, name)
        known |= any(map(is_norm, module.children())) and says_norm(words_of(type(module).__name__))
        if calls := () if known else _calls(type(module)):
            found[name] = calls
    return found


@functools.cache
def _calls(cls: type) -> tuple[str, ...]:
    methods = (
        (name, method)
        for base in cls.__mro__
        if not base.__module__.startswith("torch.")
        for name, method in vars(base).items()
        if isinstance(method, types.FunctionType) and method.__module__ == base.__module__
    )
    calls = (
        call
        for name, method in methods
        for code in codes_in(method.__code__)
        for call in _named(code, method.__globals__, made=name == "forward")
    )
    return tuple(dict.fromkeys(calls))


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function and of those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


def _named(code: types.CodeType, names: dict[str, Any], made: bool) -> Iterator[str]:
    """Yield the functions that a code names by way of its globals and, if `made`, the layers that
    it makes; `isinstance(module, nn.BatchNorm2d)` makes none.
    """
    classes = {id(cls): cls.__name__ for cls in _layer_classes()} if made else {}
    if not any(name.endswith(("_norm", "Norm", "1d", "2d", "3d")) for name in code.co_names):
        return
    value, called = None, False  # called: the stack's place beside a callee is laid out
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            value, called = names.get(step.argval), called or "NULL" in step.argrepr
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
            value = getattr(value, step.argval, None)
            called |= step.opname == "LOAD_METHOD" or "NULL" in step.argrepr
        else:
            value, called = None, step.opname == "PUSH_NULL"
        if found := _FUNCTIONS.get(id(value)) or (called and classes.get(id(value))):
            yield found


@functools.cache
def _layer_classes() -> tuple[type[nn.Module], ...]:
    return tuple(
        cls for cls in vars(nn).values() if isinstance(cls, type) and issubclass(cls, tuple(KINDS))
    )
