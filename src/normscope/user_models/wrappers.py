"""Unwrap models and optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
                f"optimizer= takes a torch.optim.Optimizer, not {type(optimizer).__name__}."
            )
        optimizer = inner
    return optimizer
