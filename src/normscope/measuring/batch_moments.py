"""Mean and variance of each channel in each of several batches, before and after the normalization layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from normscope.user_models.state_guard import preserve_state


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """One tensor over batches of one size, float64 [batches, channels] each. The variance is the
    biased one.
    """

    mean: np.ndarray
    var: np.ndarray

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, variance) over all values of all batches, float64 [channels] each."""
        return self.mean.mean(0), self.var.mean(0) + self.mean.var(0)

    def spread(self) -> np.ndarray:
        """Standard deviation over the batches of the batch mean, in pooled standard deviations,
        float64 [channels].

        NaN for a channel that is constant.
        """
        sd = np.sqrt(self.pooled()[1])
        return np.divide(self.mean.std(0, ddof=1), sd, out=np.full(len(sd), np.nan), where=sd > 0)


@torch.no_grad()
def batch_moments(
    model: nn.Module, batches: Iterable[Tensor], layers: Mapping[str, nn.Module], *, training: bool
) -> dict[str, tuple[BatchMoments, BatchMoments]]:
    """{layer: (its input's, its output's)}, in the order in which the forward pass comes to the
    layers.

    The model is left as it was, its running statistics among it.

    Args:
        model: on the device of the batches.
        batches: (N, ...) inputs, all of one size.
        layers: modules of the model from (N, C, ...) to (N, C, ...) that every forward calls once.
        training: whether the model is in train mode meanwhile.
    """
    names = {layer: name for name, layer in layers.items()}
    seen: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        given = _moments(args[0])
        seen.setdefault(names[layer], []).append(
            (*given, *(given if output is args[0] else _moments(output)))
        )

    with preserve_state(model):
        model.train(training)
        handles = [layer.register_forward_hook(hook) for layer in names]
        try:
            for batch in batches:
                model(batch)
        finally:
            for handle in handles:
                handle.remove()
    stacked = {
        name: tuple(np.stack(parts) for parts in zip(*rows, strict=True))
        for name, rows in seen.items()
    }
    return {
        name: (BatchMoments(*found[:2]), BatchMoments(*found[2:]))
        for name, found in stacked.items()
    }


def _moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, float64 [C] each."""
    # [values, C] is contiguous in channels_last memory, where reductions over (N, H, W) are six
    # times slower
    values = x.movedim(1, -1).flatten(0, -2).double()
    mean = values.mean(0)
    return mean.cpu().numpy(), (values - mean).square().mean(0).cpu().numpy()
