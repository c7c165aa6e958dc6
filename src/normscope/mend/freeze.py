"""What training leaves alone: the statistics of frozen layers, parameters without weight decay."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normscope.arguments import judged
from normscope.errors import InputError
from normscope.user_models.norm_layers import is_norm
from normscope.user_models.plain_layers import own_parameters, runs_torch_forward


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


@judged
def freeze(model: nn.Module, *, affine: bool = True) -> nn.Module:
    """Freeze every layer with running statistics inside the model, in place, and return the model.

    The layers normalize with their running statistics from now on, also after model.train(). Their
    class becomes a subclass of their own, so that state_dicts, copies and isinstance checks work as
    before.

    Args:
        model: a model or a part of one.
        affine: freeze weight and bias as well (no gradients).

    Raises:
        InputError: if there is no layer with running statistics, or one of them normalizes with the
            batch's in eval mode too. The model is unchanged then.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }
    if not layers:
        raise InputError(
            "The model has no layer with running statistics: there is nothing to freeze."
        )
    for name, layer in layers.items():
        if not runs_torch_forward(layer, _NormBase) and _normalizes_by_the_batch(layer):
            raise InputError(
                f"{name!r} ({type(layer).__name__}) cannot be frozen: its forward normalizes with "
                "the batch's statistics in eval mode too."
            )
    module: Any  # its class is changed
    for module in layers.values():
        if not isinstance(module, Frozen):
            module.__class__ = _frozen(type(module))
        module.train(False)
        if affine:
            trained = {name: p for name, p in own_parameters(module).items() if p.requires_grad}
            before = getattr(module, "trained_before", ())
            vars(module)["trained_before"] = (*before, *trained)
            for parameter in trained.values():
                parameter.requires_grad_(False)
    return model


@judged
def unfreeze(model: nn.Module) -> nn.Module:
    """Undo `freeze`, in place: layers follow train() again, and weights and biases that `freeze`
    switched off are trained. Returns the model.
    """
    for module in model.modules():
        if isinstance(module, Frozen):
            module.__class__ = type(module).__bases__[1]
            module.train(model.training)
            parameters = own_parameters(module)
            for name in vars(module).pop("trained_before", ()):
                parameters[name].requires_grad_(True)
    return model


@torch.no_grad()
def _normalizes_by_the_batch(norm: nn.Module) -> bool:
    """Tell whether in eval mode two samples' outputs change with the samples beside them."""
    norm = copy.deepcopy(norm).eval()
    generator = torch.Generator().manual_seed(0)
    for dims in range(4):  # of whatever number of dimensions the layer takes
        x = torch.randn(4, int(norm.num_features), *[3] * dims, generator=generator)  # type: ignore[arg-type]
        try:
            x = x.to(norm.running_mean)  # type: ignore[arg-type]
            return not torch.allclose(norm(x)[:2], norm(x[:2]), rtol=1e-3, atol=1e-3)
        except Exception:  # the forward is anybody's code
            continue
    return False


@functools.cache
def _frozen(cls: type[nn.Module]) -> type[nn.Module]:
    return KNOWN.get(cls) or type(
        f"Frozen{cls.__name__}", (Frozen, cls), {"__doc__": f"Frozen {cls.__name__}."}
    )


@judged
def weight_decay_groups(
    model: nn.Module, weight_decay: float, *, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Two parameter groups for an optimizer: with the decay, and without it for normalization
    layers.

    Normalization parameters are those of normalization modules, whatever they are called and
    however many dimensions they have. Every parameter that requires a gradient is in exactly one
    group, also if modules share it.

    Args:
        model: the model.
        weight_decay: of the first group.
        decay_biases: decay the biases of other layers too.

    Raises:
        InputError: if the model has no parameter to train, or the decay is negative.
    """
    if not 0 <= weight_decay < math.inf:
        raise InputError("weight_decay must be a number that is not negative.")
    spared = {
        id(p)
        for module in model.modules()
        if is_norm(module)
        for p in own_parameters(module).values()
    }
    if not decay_biases:
        spared |= {
            id(p) for module in model.modules() if (p := module._parameters.get("bias")) is not None
        }
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "No parameter of the model requires a gradient: there is nothing to optimize."
        )
    return [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
