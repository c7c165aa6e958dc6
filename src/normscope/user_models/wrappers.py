"""Unwrap models, optimizers and sharded tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError


def unwrapped_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers that only change how it is called."""
    while (
        isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        or "_orig_mod" in model._modules
    ):
        inner = model._modules.get("_orig_mod") or model._modules["module"]
        assert inner is not None
        model = inner
    return model


def torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer: wrappers of Lightning and accelerate carry it as `.optimizer`.

    Raises:
        InputError: if there is none.
    """
    while (
        not isinstance(optimizer, torch.optim.Optimizer)
        or type(optimizer).__name__ == "AcceleratedOptimizer"
    ):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            raise InputError(
                "optimizer= takes a torch.optim.Optimizer, or several in a list, not a "
                f"{type(optimizer).__name__}."
            )
        optimizer = inner
    return optimizer


def torch_optimizers(optimizer: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Return the torch optimizers of one, or of several in a list or tuple; none of None.

    Raises:
        InputError: if one is no optimizer, or the list is empty.
    """
    if optimizer is None:
        return ()
    several = optimizer if isinstance(optimizer, list | tuple) else (optimizer,)
    if not several:
        raise InputError("optimizer= is an empty list: give the optimizers, or leave it out.")
    return tuple(dict.fromkeys(torch_optimizer(each) for each in several))


def stepping_optimizer(optimizer: Any, model: nn.Module) -> torch.optim.Optimizer | None:
    """Return the optimizer whose steps count: of several, the first that holds a parameter."""
    several = torch_optimizers(optimizer)
    own = {id(parameter) for parameter in model.parameters()}
    holding = (
        each
        for each in several
        if any(id(p) in own for group in each.param_groups for p in group["params"])
    )
    return next(holding, several[0] if several else None)


def local_part(tensor: Tensor) -> Tensor:
    """Return the shard that this process holds of a sharded tensor (DTensor), others as they are.

    Waits for no other process.
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def local_affine(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of a layer, None where it has none; of shards, this process's."""
    values = (getattr(module, name, None) for name in ("weight", "bias"))
    weight, bias = (local_part(v) if isinstance(v, Tensor) else None for v in values)
    return weight, bias
