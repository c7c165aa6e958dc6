"""Gradients at a layer's output and input, and the factor by which mixed-precision training has scaled them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

# Nodes that are one normalization layer: their gradient inputs are the gradient at the layer's input.
_LAYER_NODES = ("BatchNorm", "GroupNorm", "LayerNorm")
_FRAMES_TO_SCALER = 12


def on_gradients(given: Tensor | None, output: Tensor, report: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    """Call `report(name, gradient)` in the backward pass, for "output" and "input" of the call that made `output`.

    Hooks of the autograd graph, not of the module: a full backward hook puts a view between a layer and an in-place
    ReLU, which then fails. Where the layer is more than one operation, the gradient at its input is that of the input
    tensor, with what arrives from its other consumers.
    """
    node = output.grad_fn
    if node is None:
        return []
    whole = any(name in node.name() for name in _LAYER_NODES)

    def in_backward(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> None:
        if grad_outputs[0] is not None:
            report("output", grad_outputs[0])
        if whole and grad_inputs[0] is not None:
            report("input", grad_inputs[0])

    handles = [node.register_hook(in_backward)]
    if not whole and given is not None and given.requires_grad and given.grad_fn is not node:
        handles.append(given.register_hook(lambda gradient: report("input", gradient)))
    return handles


def loss_scale(optimizer: torch.optim.Optimizer | None) -> Tensor | None:
    """The factor that a GradScaler put on the loss of the step that this optimizer is about to take, or None.

    A fused optimizer is told. Any other gets gradients that the scaler has divided already, and knows nothing; then
    the scaler is the caller's caller, a few frames up the stack. Gradients inside the network still carry the factor.
    """
    told = getattr(optimizer, "grad_scale", None)
    if isinstance(told, Tensor):
        return told
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
