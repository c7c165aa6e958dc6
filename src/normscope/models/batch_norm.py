"""Batch normalization in plain tensor arithmetic: each step, and the running statistics.

Source: Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift" (arXiv 1502.03167), called the paper below. Where PyTorch goes beyond it
(momentum, the cumulative average) its meaning is kept. Nothing here is fast: torch.nn.BatchNorm1d,
2d and 3d are explained by it and compared with it.
The arithmetic is done in the type of the tensors. A (C,) tensor has one entry per channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError


@dataclass(frozen=True)
class RunningStatistics:
    """A layer's running statistics, for eval mode."""

    mean: Tensor  # (C,) average of batch means
    var: Tensor  # (C,) average of *unbiased* batch variances
    batches: int = 0  # seen (`num_batches_tracked`)

    def updated(
        self, mean: Tensor, unbiased_var: Tensor, momentum: float | None
    ) -> RunningStatistics:
        """The statistics after one more batch.

        The paper only says that moving averages may be used (section 3.1); this is PyTorch's: new =
        (1 - f) old + f batch, where f is the momentum, or without one 1 / batches: the plain
        average.
        """
        share = 1 / (self.batches + 1) if momentum is None else momentum
        return RunningStatistics(
            (1 - share) * self.mean + share * mean,
            (1 - share) * self.var + share * unbiased_var,
            self.batches + 1,
        )


@dataclass(frozen=True)
class BatchNormSteps:
    """One batch on its way through a layer."""

    mean: Tensor  # (C,) what is subtracted
    var: Tensor  # (C,) what is divided by, before eps and the root
    unbiased_var: Tensor | None  # (C,) for the running variance; None in eval mode
    weight: Tensor | None  # (C,) gamma; None stands for 1
    bias: Tensor | None  # (C,) beta; None stands for 0
    output: Tensor  # weight (x - mean) / sqrt(var + eps) + bias, shaped like x
    running_before: RunningStatistics | None
    running_after: RunningStatistics | None  # the same in eval mode


def steps_of(layer: _BatchNorm, x: Tensor, *, training: bool) -> BatchNormSteps:
    """Compute what a layer does to x in train mode (algorithm 1 of the paper) or in eval mode
    (algorithm 2, step 11); the layer itself is neither run nor changed.

    The steps hold copies of the layer's tensors, so that they stay true while the layer is trained
    on.

    Args:
        layer: a torch.nn.BatchNorm1d, 2d, 3d or SyncBatchNorm (whose statistics here are those of
            `x` alone). Without running statistics, eval mode uses the batch's as well.
        x: (N, C, *).
        training: train mode.

    Raises:
        InputError: if x has one value per channel where its variance is asked for.
    """
    before = _running_statistics(layer)
    after, unbiased = before, None
    if training or before is None:
        mean, var = batch_statistics(x)
        count = x.numel() // x.shape[1]
        unbiased = var * (count / (count - 1))  # step 10
        if before is not None:
            after = before.updated(mean, unbiased, layer.momentum)
    else:
        mean, var = before.mean, before.var
    weight, bias = _copy(layer.weight), _copy(layer.bias)
    inverse_std = 1 / torch.sqrt(var + layer.eps)
    output = (x - _per_channel(mean, x)) * _per_channel(inverse_std, x)
    output = output if weight is None else output * _per_channel(weight, x)
    output = output if bias is None else output + _per_channel(bias, x)
    return BatchNormSteps(mean, var, unbiased, weight, bias, output, before, after)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and *biased* variance, sum / m, per channel, each (C,): algorithm 1, first two lines.

    Raises:
        InputError: if there is only one value per channel: it would be normalized to zero whatever
            it is.
    """
    if x.numel() == x.shape[1]:
        raise InputError(
            f"A batch of shape {tuple(x.shape)} has one value per channel, and so no variance."
        )
    axes = (0, *range(2, x.dim()))  # all but the channels (section 3.2)
    mean = x.mean(axes)
    return mean, (x - _per_channel(mean, x)).square().mean(axes)


def _running_statistics(layer: _BatchNorm) -> RunningStatistics | None:
    mean, var = _copy(layer.running_mean), _copy(layer.running_var)
    if mean is None or var is None:
        return None
    batches = layer.num_batches_tracked
    return RunningStatistics(mean, var, 0 if batches is None else int(batches))


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), to be broadcast over x."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))
