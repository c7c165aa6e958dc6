"""Tells whether calling a module runs PyTorch's own forward, with the weights that it holds.

A class says what a module is, not what calling it does: a subclass may add an activation, a hook or
a parametrization may compute the weights anew.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

# What a call of a convolution, a linear or a normalization layer runs.
CALLED = (
    "__call__", "_wrapped_call_impl", "_call_impl", "__getattr__", "forward",
    "_conv_forward", "_output_padding",
)  # fmt: skip
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def runs_torch_forward(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Tell whether a module is of these classes and a call runs nothing but PyTorch's forward.

    Subclasses that override neither the forward nor what it uses count: their forward is PyTorch's.
    """
    return isinstance(module, classes) and not (alteration(module) or forward_override(module))


def alteration(module: nn.Module) -> str:
    """Name what was done to this one module, as the end of a sentence; "" if nothing was.

    Looked for are parametrizations, hooks, methods replaced on the instance, weights that are
    computed tensors (the older weight_norm and spectral_norm), and lazy layers without weights yet.
    """
    if is_parametrized(module):
        names = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        return f"its {names} is computed by a parametrization: call remove_parametrizations first"
    tensors = (*module._parameters.values(), *module._buffers.values())
    if any(is_lazy(tensor) for tensor in tensors if tensor is not None):
        return "it is lazy and has no weights yet: run a batch first"
    hooks = [hook for name in HOOKS for hook in vars(module).get(name, {}).values()]
    if hooks:
        name = getattr(hooks[0], "__qualname__", type(hooks[0]).__qualname__)
        return f"it has a hook ({name}): remove it first"
    own = vars(module)
    computed = [name for name in ("weight", "bias") if isinstance(own.get(name), torch.Tensor)]
    if computed:
        return f"its {computed[0]} is a computed tensor and no parameter"
    replaced = [name for name in CALLED if name in own]
    return f"its {replaced[0]} was replaced on the instance" if replaced else ""


def forward_override(module: nn.Module) -> str:
    """Name what the class overrides of PyTorch's forward, as the end of a sentence, or ""."""
    cls = type(module)
    for name in CALLED:
        method = getattr(cls, name, None)
        if method is not None and not _is_torchs(method):
            return f"its class has a {name} of its own"
    if cls.__getattribute__ is not nn.Module.__getattribute__:
        return "its class has a __getattribute__ of its own"
    names = {*vars(module), *module._parameters, *module._buffers, "weight", "bias"}
    computed = sorted(n for n in names if hasattr(type(getattr(cls, n, None)), "__set__"))
    return f"its class computes {computed[0]}" if computed else ""


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the module's parameters by name without those of modules inside it; of a parametrized
    one, also those that its weights are computed from.
    """
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if "." not in name or (is_parametrized(module) and name.startswith("parametrizations."))
    }


def _is_torchs(method: object) -> bool:
    return (getattr(method, "__module__", "") or "").startswith("torch.nn.modules.")
