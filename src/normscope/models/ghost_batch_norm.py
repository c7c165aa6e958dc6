"""Batch normalization by the statistics of parts of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GHOST = 16
"""Images whose statistics normalize them: about as many, where a batch is no multiple."""


class GhostBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that in train mode normalizes every GHOST images of a batch by themselves.

    Ghost batch normalization of Hoffer et al. 2017 (arXiv:1705.08741): the noise of small batches
    at the speed of large ones. Running statistics remember as many batches as those of
    nn.BatchNorm2d; in eval mode the two are the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type."""
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self._check_input_dim(input)
        self.num_batches_tracked.add_(1)
        parts = input.tensor_split(max(1, round(len(input) / GHOST)))
        momentum = 1 - (1 - self.momentum) ** (1 / len(parts))
        running = self.running_mean, self.running_var
        normalized = [
            F.batch_norm(part, *running, self.weight, self.bias, True, momentum, self.eps)
            for part in parts
        ]
        return torch.cat(normalized)
