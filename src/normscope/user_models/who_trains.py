"""Who trains a parameter: which optimizer, by what steps, beside which weights, in which mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normscope.user_models.norm_layers import is_norm
from normscope.user_models.wrappers import local_part, torch_optimizers

OFTEN = 20
"""A parameter written to so many times was trained: an initialization takes a few."""


@dataclass(frozen=True)
class Holder:
    """The optimizer that holds a parameter, and its settings for it.

    Attributes:
        optimizer: its class's name.
        weight_decay: 0 without any.
        rate: the largest learning rate that its scheduler is known to reach.
        momentum: of SGD.
    """

    optimizer: str
    weight_decay: float
    rate: float
    momentum: float

    def step_size(self, parameter: torch.Tensor, *, read: bool = True) -> float | None:
        """Return the largest step that it takes at one value, None where that is not known.

        Adam and its kin normalize the gradient: a step is about the learning rate. That of SGD
        follows from the gradient, which is read from the device if `read`.
        """
        if self.optimizer.startswith(("Adam", "NAdam", "RAdam", "Lion")):
            return self.rate
        if self.optimizer != "SGD" or parameter.grad is None or not read:
            return None
        gradient = local_part(parameter.grad)
        return self.rate * float(gradient.abs().max()) / max(1 - self.momentum, 1e-3)


def holders(optimizer: Any) -> dict[int, Holder]:
    """Return {id of a parameter: who holds it} of an optimizer, or of several; {} of None.

    Raises:
        InputError: if it is no optimizer.
    """
    return {
        id(parameter): Holder(
            type(each).__name__,
            float(group.get("weight_decay") or 0.0),
            max(_number(group.get(name)) for name in ("lr", "initial_lr", "max_lr")),
            _number(group.get("momentum")),
        )
        for each in torch_optimizers(optimizer)
        for group in each.param_groups
        for parameter in group["params"]
    }


def _number(value: Any) -> float:
    return 0.0 if value is None else float(value)


def weights_around(
    model: nn.Module, modules: dict[str, nn.Module]
) -> dict[str, list[nn.Parameter]]:
    """Return the weights around each normalization layer: those of the module before it, or else
    behind it, that has any, in the smallest module around it where one has.
    """
    norms = {id(p) for module in modules.values() for p in module.parameters()}

    def others(module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters() if id(p) not in norms]

    scopes: dict[str, list[nn.Parameter]] = {}
    for name in modules:
        scopes[name], inner = [], name
        while inner and not scopes[name]:
            parent, _, child = inner.rpartition(".")
            siblings = dict(model.get_submodule(parent).named_children())
            near, index = list(siblings.values()), list(siblings).index(child)
            order = (*reversed(near[:index]), *near[index + 1 :])
            scopes[name] = next((weights for module in order if (weights := others(module))), [])
            inner = parent
    return scopes


def part_left_in_eval(model: nn.Module, name: str) -> str:
    """Return the name of the largest part around a layer that is in eval mode inside a model in
    train mode although other weights of it are trained; "" where there is none.

    Who freezes statistics puts the layers in eval mode; who forgets to call train(), a whole part.
    """
    if not model.training:
        return ""
    for part in _parts_around(name):
        module = model.get_submodule(part)
        if not module.training:
            return part if any(map(_trains_other_weights, module.modules())) else ""
    return ""


def _parts_around(name: str) -> Iterator[str]:
    """Yield the names of the modules around one, from the largest, and its own."""
    path = name.split(".")
    return (".".join(path[: count + 1]) for count in range(len(path)))


def _trains_other_weights(module: nn.Module) -> bool:
    trains = any(p.requires_grad for p in module.parameters(recurse=False))
    return trains and not module.training and not is_norm(module)


def was_trained(parameters: Iterable[nn.Parameter]) -> bool:
    """Tell whether parameters hold gradients, or were written to many times, as by an optimizer."""
    return any(p.grad is not None or p._version >= OFTEN for p in parameters if not is_lazy(p))
