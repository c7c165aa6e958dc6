"""Unwrap models, optimizers and sharded tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

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


def flat_pieces(
    optimizer: torch.optim.Optimizer,
) -> dict[tuple[nn.Module, str], tuple[Tensor, Tensor]]:
    """Return {(module, name of its parameter): this process's pieces of its values and of its
    gradient} of what FSDP without `use_orig_params` keeps in flat parameters.
    """

    def piece(flat: Tensor, shard: Any) -> Tensor:
        return flat.detach()[shard.offset_in_shard :][: shard.numel_in_shard]

    flat = (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return {
        (info.module, info.param_name): (piece(p, shard), piece(p.grad, shard))
        for p in flat
        for info, shard in zip(*_pieces(p), strict=True)
        if shard.in_shard
    }


def is_flat(model: nn.Module | None) -> bool:
    """Tell whether FSDP calls layers of a model with views of flat parameters."""
    modules = () if model is None else model.modules()
    kinds = {base.__name__ for module in modules for base in type(module).__mro__}
    return "FullyShardedDataParallel" in kinds


def _pieces(parameter: Any) -> tuple[Any, Any]:
    return getattr(parameter, "_param_infos", ()), getattr(parameter, "_shard_param_infos", ())


def local_part(tensor: Tensor) -> Tensor:
    """Return the shard that this process holds of a sharded tensor (DTensor), others as they are.

    Waits for no other process.
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether a tensor is one of torch.func's, inside grad, vmap or another transform."""
    return _functorch.is_functorch_wrapped_tensor(tensor)


def is_mapped(tensor: Tensor) -> bool:
    """Tell whether vmap, at any level, maps over a tensor."""
    while is_transformed(tensor):
        if _functorch.maybe_get_bdim(tensor) >= 0:
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def outside_transforms() -> AbstractContextManager[Any]:
    """Return a context in which operations belong to no transform of torch.func."""
    return temporarily_clear_interpreter_stack()


def local_values(tensor: Tensor) -> Tensor | None:
    """Return the values that this process holds of an activation, with nothing wrapped around them.

    Of a DTensor that is its part, None where that is a summand; of a tensor of torch.func what is
    inside, where the dimensions that vmap maps over are the first, merged with the first of a
    call's own. Waits for no other process.
    """
    if is_transformed(tensor):
        with outside_transforms():
            return _unmapped(tensor).detach()
    if hasattr(tensor, "to_local"):
        if any(placement.is_partial() for placement in tensor.placements):  # type: ignore[attr-defined]
            return None
        return tensor.detach().to_local()  # type: ignore[attr-defined]
    return tensor


def _unmapped(tensor: Tensor) -> Tensor:
    bare, mapped = _bare(tensor)
    return bare.flatten(0, mapped - (tensor.dim() < 2)) if mapped else bare


def _bare(tensor: Tensor) -> tuple[Tensor, int]:
    """Return what is inside a tensor of torch.func, and how many of its dimensions are mapped."""
    if not is_transformed(tensor):
        return tensor, 0
    bare, mapped = _bare(_functorch.get_unwrapped(tensor))
    axis = _functorch.maybe_get_bdim(tensor)
    return (bare, mapped) if axis < 0 else (bare.movedim(mapped + axis, 0), mapped + 1)


def local_affine(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of a layer, None where it has none; of shards, this process's."""
    values = (getattr(module, name, None) for name in ("weight", "bias"))
    weight, bias = (local_values(v) if isinstance(v, Tensor) else None for v in values)
    return weight, bias
