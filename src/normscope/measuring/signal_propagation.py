"""The variances of a residual network's skip path and branches, which grow from block to block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from normscope.measuring.capture import tapped

Blocks = Mapping[str, tuple[nn.Module, nn.Module]]
"""{name: (block, the module inside whose output is its branch)}, in the order of the forward pass.
The block's output is the branch plus the skip, with nothing after the addition.
"""


@torch.no_grad()
def path_variances(
    forward: Callable[[Tensor], object], batches: Iterable[Tensor], blocks: Blocks
) -> dict[str, np.ndarray]:
    """Return {"skip", "branch"}: variances, float64 [blocks], the mean over channels and batches.

    A channel's variance is over the images and positions of a batch (De & Smith 2020, section 2).
    The caller decides the mode of the network; in train mode running statistics move.
    """
    taps = {
        f"{end}:{name}": (module, "output")
        for name, ends in blocks.items()
        for end, module in zip("yb", ends, strict=True)
    }
    sums = {"skip": np.zeros(len(blocks)), "branch": np.zeros(len(blocks))}
    count = 0
    with tapped(taps) as tensors:
        for images in batches:
            forward(images)
            count += 1
            for index, name in enumerate(blocks):
                branch = tensors[f"b:{name}"].double()
                sums["branch"][index] += _variance(branch)
                sums["skip"][index] += _variance(tensors[f"y:{name}"].double() - branch)
            tensors.clear()
    return {path: total / max(count, 1) for path, total in sums.items()}


def _variance(x: Tensor) -> float:
    """Mean over channels of the variance of (N, C, H, W) in each."""
    return float(x.var(dim=(0, 2, 3), correction=0).mean())
