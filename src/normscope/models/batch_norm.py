"""Batch normalization in plain tensor arithmetic: each step, running statistics, backward pass.

Source: Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift" (arXiv 1502.03167), called the paper below. Where PyTorch goes beyond it
(momentum, the cumulative average) its meaning is kept. Nothing here is fast: torch.nn.BatchNorm1d,
2d and 3d are explained by it and compared with it.
The arithmetic is done in the type of the tensors. A (C,) tensor has one entry per channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError


@dataclass(frozen=True)
class RunningStatistics:
    """A layer's running statistics, for eval mode."""

    mean: Tensor
    """(C,) Average of batch means."""

    var: Tensor
    """(C,) Average of *unbiased* batch variances."""

    batches: int = 0
    """Batches seen (`num_batches_tracked`)."""

    def updated(
        self, mean: Tensor, unbiased_var: Tensor, momentum: float | None
    ) -> RunningStatistics:
        """The statistics after one more batch.

        The paper only says that moving averages may be used (section 3.1); this is PyTorch's: new =
        (1 - f) old + f batch with f = `update_share(momentum)`.
        """
        share = self.update_share(momentum)
        return RunningStatistics(
            (1 - share) * self.mean + share * mean,
            (1 - share) * self.var + share * unbiased_var,
            self.batches + 1,
        )

    def update_share(self, momentum: float | None) -> float:
        """Share of the next batch: `momentum`, or with None 1 / batches: the plain average."""
        return 1 / (self.batches + 1) if momentum is None else momentum


@dataclass(frozen=True)
class BatchNormSteps:
    """One batch on its way through a layer; every step can be read."""

    input: Tensor
    """x: (N, C, *), with any dimensions after the channels."""

    uses_batch_statistics: bool
    """True if `mean` and `var` are the batch's, False if they are running statistics."""

    mean: Tensor
    """(C,) What is subtracted."""

    var: Tensor
    """(C,) What is divided by, before eps and the root."""

    weight: Tensor | None
    """(C,) gamma; None stands for 1."""

    bias: Tensor | None
    """(C,) beta; None stands for 0."""

    eps: float
    """Added to the variance."""

    running_before: RunningStatistics | None
    """Running statistics before this batch."""

    running_after: RunningStatistics | None
    """Running statistics after it: the same in eval mode."""

    @property
    def axes(self) -> tuple[int, ...]:
        """The dimensions of x that a statistic pools: all but the channels (paper, section 3.2)."""
        return pooled_axes(self.input)

    @property
    def count(self) -> int:
        """Values per channel: the paper's m, and for images its m' = m p q (section 3.2)."""
        return values_per_channel(self.input)

    @cached_property
    def centred(self) -> Tensor:
        """x - mean, shaped like x."""
        return self.input - _per_channel(self.mean, self.input)

    @cached_property
    def inverse_std(self) -> Tensor:
        """1 / sqrt(var + eps), (C,)."""
        return 1 / torch.sqrt(self.var + self.eps)

    @cached_property
    def normalized(self) -> Tensor:
        """(x - mean) / sqrt(var + eps), shaped like x: algorithm 1, third line."""
        return self.centred * _per_channel(self.inverse_std, self.input)

    @cached_property
    def output(self) -> Tensor:
        """Weight * normalized + bias, shaped like x (algorithm 1, last line; 2, step 11)."""
        scaled = (
            self.normalized
            if self.weight is None
            else self.normalized * _per_channel(self.weight, self.input)
        )
        return scaled if self.bias is None else scaled + _per_channel(self.bias, self.input)

    @cached_property
    def unbiased_var(self) -> Tensor | None:
        """m / (m - 1) var, (C,), for the running variance (algorithm 2, step 10)."""
        return unbiased(self.var, self.count) if self.uses_batch_statistics else None


@dataclass(frozen=True)
class BatchNormGradients:
    """Derivatives of a loss; None for a parameter that the layer has not got."""

    input: Tensor
    """Shaped like x."""

    weight: Tensor | None
    """(C,)"""

    bias: Tensor | None
    """(C,)"""


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running: RunningStatistics | None = None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> BatchNormSteps:
    """Normalize each channel of `x`: algorithm 1 of the paper in train mode, algorithm 2's step 11
    in eval mode.

    Args:
        x: (N, C, *).
        weight: (C,) gamma, or None.
        bias: (C,) beta, or None.
        running: what the layer remembers; with None eval mode uses the batch's statistics as well.
            Not changed: the result holds what it becomes.
        training: train mode.
        momentum: share of this batch in the running statistics, or None for the plain average over
            all batches.
        eps: added to the variance.

    Raises:
        InputError: if x has no channels, or one value per channel where its variance is asked for.
    """
    if x.dim() < 2:
        raise InputError(
            f"Batch normalization got a tensor of shape {tuple(x.shape)}; expected (N, C, ...)."
        )
    after = running
    if training or running is None:
        mean, var = batch_statistics(x)
        if running is not None:
            after = running.updated(mean, unbiased(var, values_per_channel(x)), momentum)
    else:
        mean, var = running.mean, running.var
    return BatchNormSteps(
        x, training or running is None, mean, var, weight, bias, eps, running, after
    )


def batch_norm_backward(steps: BatchNormSteps, grad_output: Tensor) -> BatchNormGradients:
    """The derivatives of a loss by a layer's input, weight and bias, given the one by its output
    (paper, section 3).

    With g = dl/dy, n = normalized, s = inverse_std, sums over the pooled axes:

        dl/dbias   = sum g
        dl/dweight = sum g n
        dl/dn      = g weight

    Running statistics are constants, so in eval mode dl/dx = dl/dn s. The batch's own depend on x,
    and the paper adds what comes through them:

        dl/dvar  = sum dl/dn (x - mean) (-1/2) s^3  =  -(s^2 / 2) sum dl/dn n
        dl/dmean = -s sum dl/dn                        (its second term, sum (x - mean), is zero)
        dl/dx    = dl/dn s + dl/dvar 2 (x - mean) / m + dl/dmean / m

    Putting the first two into the third, with x - mean = n / s:

        dl/dx = s (dl/dn - mean(dl/dn) - n mean(dl/dn n))

    which says what train mode does to a gradient: it loses its mean and its component along the
    normalized input.

    Args:
        steps: the forward pass.
        grad_output: dl/dy, shaped like the output.
    """
    x, normalized, axes = steps.input, steps.normalized, steps.axes
    grad_bias = grad_output.sum(axes)
    grad_weight = (grad_output * normalized).sum(axes)
    grad_normalized = (
        grad_output if steps.weight is None else grad_output * _per_channel(steps.weight, x)
    )
    passed = grad_normalized
    if steps.uses_batch_statistics:
        along = (grad_normalized * normalized).mean(axes)
        passed = (
            passed
            - _per_channel(grad_normalized.mean(axes), x)
            - normalized * _per_channel(along, x)
        )
    return BatchNormGradients(
        input=passed * _per_channel(steps.inverse_std, x),
        weight=None if steps.weight is None else grad_weight,
        bias=None if steps.bias is None else grad_bias,
    )


def steps_of(layer: _BatchNorm, x: Tensor, *, training: bool | None = None) -> BatchNormSteps:
    """Compute what `layer` does to `x`, in its mode or another; the layer itself is neither run nor
    changed.

    The steps hold copies of the layer's tensors, so that they stay true while the layer is trained
    on.

    Args:
        layer: a torch.nn.BatchNorm1d, 2d, 3d or SyncBatchNorm (whose statistics here are those of
            `x` alone).
        x: (N, C, *).
        training: train or eval mode; None for the layer's.
    """
    mean, var, batches = (
        _copy(layer.running_mean),
        _copy(layer.running_var),
        layer.num_batches_tracked,
    )
    running = None
    if mean is not None and var is not None:
        running = RunningStatistics(mean, var, 0 if batches is None else int(batches))
    return batch_norm(
        x,
        _copy(layer.weight),
        _copy(layer.bias),
        running,
        training=layer.training if training is None else training,
        momentum=layer.momentum,
        eps=layer.eps,
    )


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and *biased* variance, sum / m, per channel, each (C,): algorithm 1, first two lines.

    Raises:
        InputError: if there is only one value per channel: it would be normalized to zero whatever
            it is.
    """
    if values_per_channel(x) == 1:
        raise InputError(
            f"A batch of shape {tuple(x.shape)} has one value per channel, and so no variance."
        )
    mean = x.mean(pooled_axes(x))
    return mean, (x - _per_channel(mean, x)).square().mean(pooled_axes(x))


def unbiased(var: Tensor, count: int) -> Tensor:
    """The unbiased variance, sum / (m - 1), from the biased one of `count` values (step 10)."""
    return var * (count / (count - 1))


def pooled_axes(x: Tensor) -> tuple[int, ...]:
    """All dimensions of (N, C, *) but the channels."""
    return (0, *range(2, x.dim()))


def values_per_channel(x: Tensor) -> int:
    """N times the size of the dimensions after the channels."""
    return x.numel() // x.shape[1]


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), to be broadcast over x."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))
