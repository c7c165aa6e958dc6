"""Gradients and hidden vectors in a deep, fully connected network before its first step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

DEPTH, WIDTH = 40, 256


@torch.enable_grad()
def through_depth(
    x: Tensor, norm: Callable[[int], nn.Module], generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Send vectors and a random gradient through DEPTH layers of linear map, norm and ReLU, in
    train mode and float64.

    Weights are drawn as He et al. 2015 do, biases are 0.

    Args:
        x: the vectors, [N, D]; the first map takes them to WIDTH units.
        norm: makes the normalization of so many channels, for [N, C, 1, 1].
        generator: of the weights and of the gradient at the end.

    Returns:
        "gradient", the l2 norm of the gradient at each layer's output, and "rank", the
        participation ratio of the hidden vectors there: (sum of eigenvalues)^2 over the sum of
        their squares, of the matrix of inner products, 1 where all vectors are parallel. float64
        [DEPTH] each, from the input on.
    """
    hidden, outputs = x.double()[:, :, None, None], []
    for _ in range(DEPTH):
        width = hidden.shape[1]
        weight = torch.empty(WIDTH, width, dtype=torch.float64)
        weight.normal_(0, math.sqrt(2 / width), generator=generator)
        hidden = nn.functional.conv2d(hidden, weight[:, :, None, None].requires_grad_())
        hidden = torch.relu(norm(WIDTH).double().train()(hidden))
        hidden.retain_grad()
        outputs.append(hidden)
    direction = torch.empty_like(hidden).normal_(generator=generator)
    (hidden * direction).sum().backward()
    return {
        "gradient": np.array([float(_gradient(output).norm()) for output in outputs]),
        "rank": np.array([_participation(output.detach().flatten(1)) for output in outputs]),
    }


def _gradient(output: Tensor) -> Tensor:
    assert output.grad is not None
    return output.grad


def _participation(vectors: Tensor) -> float:
    products = vectors @ vectors.T
    return float(products.trace() ** 2 / products.square().sum())
