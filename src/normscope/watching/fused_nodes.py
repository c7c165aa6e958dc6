"""Batch normalization fused with an addition and a ReLU (`normscope.fused`), in autograd's graph.

Its node stands for up to three operations. Beside `_saved_result1` and `_saved_result2` it says
which: `relu` and `has_residual`, where the residual is its second input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "BatchNormAddReLUBackward"


def is_fused(node: Any) -> bool:
    """Tell whether a node of the graph is a fused layer."""
    return node is not None and node.name() == NAME


def gradient_behind_normalization(
    node: Any, x: Tensor, grad_inputs: tuple[Any, ...], gradient: Tensor,
    weight: Tensor | None, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return the gradient at the output of the normalization itself, before the addition and the
    ReLU: [N, C, H, W].

    Args:
        node: the fused layer.
        x: its input.
        grad_inputs: the gradients that its backward made.
        gradient: the gradient at its output.
        weight: of the normalization, float32 [C], as in the forward; None for 1.
        bias: the same; None for 0.
    """
    if node.has_residual:
        return grad_inputs[1]  # the addition hands the same gradient to both of its terms
    if not node.relu:
        return gradient
    shape = (1, -1, *(1,) * (x.dim() - 2))
    with torch.no_grad():
        normalized = (x - node._saved_result1.view(shape)) * node._saved_result2.view(shape)
        if weight is not None:
            normalized = normalized * weight.view(shape)
        if bias is not None:
            normalized = normalized + bias.view(shape)
        return gradient * (normalized > 0)
