"""Batch normalization that stays frozen: eval mode that survives train()."""

from __future__ import annotations

import functools
from typing import Any, Self

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normscope.errors import InputError


class Frozen(nn.Module):
    """Mixed into a layer's class: train() leaves it in eval mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)


class FrozenBatchNorm1d(Frozen, nn.BatchNorm1d):
    """nn.BatchNorm1d that train() leaves in eval mode."""


class FrozenBatchNorm2d(Frozen, nn.BatchNorm2d):
    """nn.BatchNorm2d that train() leaves in eval mode."""


class FrozenBatchNorm3d(Frozen, nn.BatchNorm3d):
    """nn.BatchNorm3d that train() leaves in eval mode."""


class FrozenSyncBatchNorm(Frozen, nn.SyncBatchNorm):
    """nn.SyncBatchNorm that train() leaves in eval mode."""


KNOWN = {
    cls.__bases__[1]: cls
    for cls in (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d, FrozenSyncBatchNorm)
}


def freeze(model: nn.Module, *, affine: bool = True) -> nn.Module:
    """Freeze every layer with running statistics inside the model, in place, and return the model.

    The layers normalize with their running statistics from now on, also after model.train(). Their
    class becomes a subclass of their own, so that state_dicts, copies and isinstance checks work as
    before.

    Args:
        model: a model or a part of one.
        affine: freeze weight and bias as well (no gradients).

    Raises:
        InputError: if there is no layer with running statistics.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    ]
    if not found:
        raise InputError(
            "The model has no layer with running statistics: there is nothing to freeze."
        )
    module: Any  # its class is changed
    for module in found:
        if not isinstance(module, Frozen):
            module.__class__ = _frozen(type(module))
        module.training = False
        if affine:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """Undo `freeze`, in place: layers follow train() again and their weight and bias are trained.
    Returns the model.
    """
    for module in model.modules():
        if isinstance(module, Frozen):
            module.__class__ = type(module).__bases__[1]
            module.train(model.training)
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    return model


@functools.cache
def _frozen(cls: type[nn.Module]) -> type[nn.Module]:
    return KNOWN.get(cls) or type(
        f"Frozen{cls.__name__}", (Frozen, cls), {"__doc__": f"Frozen {cls.__name__}."}
    )
