"""Gradients at a layer's output and input, and their scale in mixed-precision training."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from normscope.user_models.wrappers import local_values, outside_transforms
from normscope.watching.observe import Call
from normscope.watching.tensor_statistics import (
    gradient_behind_normalization,
    is_fused,
    vector_norm,
)

# Nodes that are one normalization layer: their first gradient is that at the layer's input.
_LAYER_NODES = (
    "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "SyncBatchNorm", "NativeGroupNorm",
    "NativeLayerNorm",
)  # fmt: skip
_FRAMES_TO_SCALER = 12


class GradientNorms:
    """L2 norms of the gradients at the outputs and inputs of some calls, which the next backward
    pass brings.

    Hooks of the autograd graph, not of the module: a full backward hook puts a view between a layer
    and an in-place ReLU, which then fails. Where a layer is more than one operation, the gradient
    at its input is that of the input tensor, with what arrives from its other consumers.

    Args:
        run: runs a measurement, or does not.
    """

    def __init__(self, run: Callable[[Callable[[], None]], None]):
        self.calls: list[Call] = []
        self._run = run
        self._handles: list[RemovableHandle] = []

    def await_backward(self, call: Call, module: nn.Module, x: Tensor | None, y: Tensor) -> None:
        """Measure the gradients of a module's call with this input and output."""
        self.calls.append(call)
        node = y.grad_fn
        if node is None:
            return
        if is_fused(node) and x is not None:
            self._await_fused(call, module, x, node)
            return
        whole = node.name().startswith(_LAYER_NODES)

        def in_backward(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> None:
            self._measure(call, "output", grad_outputs[0])
            if whole:
                self._measure(call, "input", grad_inputs[0])

        self._handles.append(node.register_hook(in_backward))
        if not whole and x is not None and x.requires_grad and x.grad_fn is not node:
            measure = functools.partial(self._measure, call, "input")
            self._handles.append(x.register_hook(measure))

    def _await_fused(self, call: Call, module: nn.Module, x: Tensor, node: Node) -> None:
        def in_backward(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> None:
            weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
            gradient = grad_outputs[0]
            at_output = gradient_behind_normalization(node, x, grad_inputs, gradient, weight, bias)
            self._measure(call, "output", at_output)
            self._measure(call, "input", grad_inputs[0])

        self._handles.append(node.register_hook(in_backward))

    def clear(self) -> None:
        """Take the hooks off graphs that somebody may have kept, and forget the calls."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.calls = [], []

    def _measure(self, call: Call, side: str, gradient: Tensor | None) -> None:
        def measure() -> None:
            values = None if gradient is None else local_values(gradient)
            if values is not None:
                with torch.no_grad(), outside_transforms():
                    call.gradient_norms[side] = vector_norm(values)

        self._run(measure)


def loss_scale(optimizer: torch.optim.Optimizer | None) -> Tensor | None:
    """Return the factor that a GradScaler put on the loss of the step that this optimizer is about
    to take, or None.

    A fused optimizer has it as an attribute. Any other gets gradients that are divided already;
    then the scaler is found a few frames up the stack. Gradients inside the network still carry the
    factor.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if isinstance(scale, Tensor):
        return scale
    frame = sys._getframe(1)
    for _ in range(_FRAMES_TO_SCALER):
        if frame is None:
            return None
        if frame.f_code.co_name == "step":
            caller = frame.f_locals.get("self")
            if isinstance(caller, torch.amp.GradScaler):
                return caller._scale if caller.is_enabled() else None
        frame = frame.f_back
    return None
