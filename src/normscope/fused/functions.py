"""The fused layers as autograd functions, over the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normscope.fused.library import Library, Parameters

NAMES = {torch.float32: "float", torch.bfloat16: "bf16"}
"""Type of the data -> its name in the kernels."""


class _Plain:
    """Stands in for `_raw_saved_...` of a tensor that no saved-tensor hook packed: runs no code."""

    unpack_hook = None


class BatchNormAddReLU(torch.autograd.Function):
    """relu(batch_norm(x) + residual) in training mode; the residual and the ReLU may be absent.

    x, residual and the output are [N, C, H, W], dense and channels_last in memory, float32 or
    bfloat16; the arithmetic, the statistics and the parameters are float32. Ioffe and Szegedy 2015,
    algorithm 1.

    Like that of PyTorch's own function, its node in the graph holds the batch mean as
    `_saved_result1` and the inverse standard deviation as `_saved_result2`, both float32 [C]; here
    also under saved-tensor hooks, which never see them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
        eps: float,
        relu: bool,
        library: Library,
    ) -> Tensor:
        """The output. Updates the running mean and variance in place, as nn.BatchNorm2d does."""
        mean, inverse_std = torch.empty(2, x.shape[1])
        output = torch.empty_like(x)
        parameters = _parameters(x, weight, bias, mean, inverse_std, relu)
        parameters.momentum, parameters.eps = momentum, eps
        if running is not None:
            parameters.running_mean, parameters.running_var = (
                buffer.data_ptr() for buffer in running
            )
        kernel = getattr(library.functions, f"normscope_forward_{NAMES[x.dtype]}")
        kernel(parameters, x.data_ptr(), _address(residual), output.data_ptr())
        if running is not None:
            # the kernel wrote them behind autograd's back
            torch.autograd.graph.increment_version(running)

        ctx.relu, ctx.library = relu, library
        ctx._saved_result1, ctx._saved_result2 = mean, inverse_std
        ctx._raw_saved_result1 = ctx._raw_saved_result2 = _Plain
        ctx.has_residual = residual is not None
        ctx.save_for_backward(x, weight, bias, output if relu and residual is not None else None)
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator loses the names
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, residual, weight and bias."""
        x, weight, bias, output = ctx.saved_tensors
        gradient = _laid_out_like(x, gradient)
        weight_gradient, bias_gradient = torch.empty(2, x.shape[1])
        result = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        masked = None if output is None else torch.empty_like(x)
        parameters = _parameters(x, weight, bias, ctx._saved_result1, ctx._saved_result2, ctx.relu)
        parameters.weight_gradient, parameters.bias_gradient = (
            weight_gradient.data_ptr(),
            bias_gradient.data_ptr(),
        )
        kernel = getattr(ctx.library.functions, f"normscope_backward_{NAMES[x.dtype]}")
        kernel(
            parameters,
            x.data_ptr(),
            _address(output),
            gradient.data_ptr(),
            _address(masked),
            _address(result),
        )
        residual_gradient = (gradient if masked is None else masked) if ctx.has_residual else None
        return (
            result,
            residual_gradient,
            weight_gradient if weight is not None else None,
            bias_gradient if bias is not None else None,
            *(None,) * 5,
        )


def _parameters(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    relu: bool,
) -> Parameters:
    channels = x.shape[1]
    return Parameters(
        rows=x.numel() // channels,
        channels=channels,
        weight=_address(weight),
        bias=_address(bias),
        mean=mean.data_ptr(),
        inverse_std=inverse_std.data_ptr(),
        relu=relu,
        threads=torch.get_num_threads(),
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _laid_out_like(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in x's memory order: a broadcast one (average pooling) is written out."""
    if gradient.stride() == x.stride():
        return gradient
    return torch.empty_like(x).copy_(gradient)
