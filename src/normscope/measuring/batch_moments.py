"""Each channel's mean and variance in several batches, before and after normalization layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from normscope.user_models.state_guard import preserve_state


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """One tensor's means and biased variances over batches of one size, float64 [batches, channels]
    each.
    """

    mean: np.ndarray
    var: np.ndarray

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance over all values of all batches, float64 [channels] each."""
        return self.mean.mean(0), self.var.mean(0) + self.mean.var(0)

    def spread(self) -> np.ndarray:
        """Return the standard deviation over the batches of the batch mean, in pooled standard
        deviations, float64 [channels]; NaN for a channel that is constant.
        """
        sd = np.sqrt(self.pooled()[1])
        return np.divide(self.mean.std(0, ddof=1), sd, out=np.full(len(sd), np.nan), where=sd > 0)


@torch.no_grad()
def batch_moments(
    model: nn.Module, batches: Iterable[Tensor], layers: Mapping[str, nn.Module], *, training: bool
) -> dict[str, tuple[BatchMoments, BatchMoments]]:
    """Return {layer: (its input's, its output's)}, in the order in which the layers run.

    The model is left as it was, its running statistics among it.

    Args:
        model: on the device of the batches.
        batches: (N, ...) inputs, all of one size.
        layers: modules of the model from (N, C, ...) to (N, C, ...) that every forward calls once.
        training: whether the model is in train mode meanwhile.
    """
    names = {layer: name for name, layer in layers.items()}
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        before = _moments(args[0])
        after = before if output is args[0] else _moments(output)
        rows.setdefault(names[layer], []).append((*before, *after))

    with preserve_state(model), ExitStack() as hooks:
        model.train(training)
        for layer in names:
            hooks.enter_context(layer.register_forward_hook(hook))
        for batch in batches:
            model(batch)
    stacked = {
        name: [np.stack(column) for column in zip(*each, strict=True)]
        for name, each in rows.items()
    }
    return {name: (BatchMoments(*s[:2]), BatchMoments(*s[2:])) for name, s in stacked.items()}


def _moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    # [values, C] is contiguous in channels_last memory, where reductions over (N, H, W) are six
    # times slower
    values = x.movedim(1, -1).flatten(0, -2).double()
    mean = values.mean(0)
    return mean.cpu().numpy(), (values - mean).square().mean(0).cpu().numpy()
