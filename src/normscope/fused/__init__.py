"""Batch normalization, residual addition and ReLU as one step of training on a CPU.

`normalize` takes over what it can do faster with the same result up to rounding, and leaves the
rest to the caller. The modules keep their parameters and buffers: to state dicts, optimizers and
checks nothing has changed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from normscope.fused.functions import NAMES, BatchNormAddReLU
from normscope.fused.library import Library, load

STATISTICS_ONLY = "reads_statistics_only"
"""Attribute of a forward hook that reads nothing but its input and the batch statistics."""

LEAST_NUMBERS = 1 << 16
"""Smaller tensors lose more time in Python than they win here. Measured on one core."""


def availability() -> str | None:
    """None where the kernels can be used, else why not. Builds them the first time on a machine."""
    library = load()
    return None if isinstance(library, Library) else str(library)


def normalize(
    norm: nn.Module, activation: nn.Module | None, x: Tensor, residual: Tensor | None = None
) -> Tensor | None:
    """activation(norm(x) + residual) in one step, or None where that is not ours to do.

    Ours are training forwards with gradients, of an nn.BatchNorm2d on float32 or bfloat16 images
    [N, C, H, W] that are channels_last on the CPU, followed by an nn.ReLU or no activation. Tensors
    below LEAST_NUMBERS are left to the modules, which are faster there.

    Hooks on the two modules see what they would see otherwise: with one of them, the step is not
    ours. The exception are forward hooks of the normalization whose attribute
    `reads_statistics_only` is true. They are called as hook(norm, (x,), output), must return None,
    and may read x, and `_saved_result1` and `_saved_result2` of `output.grad_fn` (batch mean and
    inverse standard deviation, float32 [C]), but not the values of `output`, which is behind the
    activation. A watched step then has the same bits as an unwatched one.
    """
    library = load()
    if not isinstance(library, Library) or not (library.parallel or torch.get_num_threads() == 1):
        return None
    if type(norm) is not nn.BatchNorm2d or x.numel() < LEAST_NUMBERS:
        return None
    if not (activation is None or type(activation) is nn.ReLU) or not _suits(x, residual):
        return None
    if _has_any_global_hook() or (activation is not None and _is_hooked(activation)):
        return None
    if not (_is_trained(norm) and x.numel() // x.shape[1] > 1 and _only_statistics(norm)):
        return None
    output = _batch_norm(norm, activation is not None, x, residual, library)
    for key, hook in norm._forward_hooks.items():
        keywords = ({},) if key in norm._forward_hooks_with_kwargs else ()
        hook(norm, (x,), *keywords, output)
    return output


def _batch_norm(
    norm: nn.BatchNorm2d, relu: bool, x: Tensor, residual: Tensor | None, library: Library
) -> Tensor:
    """Run the fused function with statistics, counter and momentum as in nn.BatchNorm2d.forward."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    running = None
    if norm.track_running_stats:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if norm.momentum is None:
                momentum = 1.0 / float(norm.num_batches_tracked)
        if norm.running_mean is not None and norm.running_var is not None:
            running = norm.running_mean, norm.running_var
    return BatchNormAddReLU.apply(
        x, residual, norm.weight, norm.bias, running, momentum, norm.eps, relu, library
    )


def _suits(x: Tensor, residual: Tensor | None) -> bool:
    """Return whether the tensors are dense [N * H * W, C] of a known type, with gradients."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor:
        return False
    if x.device.type != "cpu" or x.dtype not in NAMES or x.dim() != 4 or x.numel() == 0:
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return residual is None or (
        type(residual) is Tensor
        and residual.dtype == x.dtype
        and residual.shape == x.shape
        and residual.device.type == "cpu"
        and residual.is_contiguous(memory_format=torch.channels_last)
    )


def _is_trained(norm: nn.BatchNorm2d) -> bool:
    """Return whether it is in train mode, with float32 parameters and statistics on the CPU."""
    if not norm.training:
        return False
    vectors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return all(
        vector is None
        or (
            vector.dtype == torch.float32 and vector.device.type == "cpu" and vector.is_contiguous()
        )
        for vector in vectors
    )


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _only_statistics(norm: nn.BatchNorm2d) -> bool:
    """Return whether all its hooks are forward hooks that only read statistics."""
    if norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks:
        return False
    return all(getattr(hook, STATISTICS_ONLY, False) for hook in norm._forward_hooks.values())
