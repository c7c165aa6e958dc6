"""How far the distributions of tensors move from one training step to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from normscope.user_models.state_guard import is_examined


class Movement:
    """Mean and standard deviation of every channel of the outputs of modules, at every training
    forward.

    Forwards of modules in eval mode, and those of other measurements, do not count.

    Args:
        layers: {name: module whose output is (N, C, H, W)}, each called once in a forward.
    """

    def __init__(self, layers: Mapping[str, nn.Module]):
        self._layers = layers
        self._seen: dict[str, list[np.ndarray]] = {}  # {name: [2, C] for each forward}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, forwards are seen."""
        handles = [
            layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of_channels(self) -> dict[str, np.ndarray]:
        """{name: float64 [C]} in the order of the forward pass: root mean square over the steps of
        how far they moved.

        The distance between two normal distributions of the channel's means and standard deviations
        (Wasserstein-2: sqrt(dm^2 + ds^2)), in root mean square standard deviations of the channel,
        so that it has no unit. Includes what the drawing of another batch moves. NaN for a channel
        that is constant or not finite, and for fewer than two steps.
        """
        found = {}
        for name, rows in self._seen.items():
            moments = np.stack(rows)
            with np.errstate(
                all="ignore"
            ):  # a training may diverge, and one step has no mean change
                steps = np.square(np.diff(moments, axis=0)).sum(axis=1)
                spread = np.square(moments[:, 1]).mean(axis=0)
                moved = (
                    np.sqrt(steps.sum(axis=0) / len(steps) / spread)
                    if len(steps)
                    else np.full(len(spread), np.nan)
                )
            found[name] = np.where(spread > 0, moved, np.nan)
        return found

    def _hook(self, name: str):
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if layer.training and not is_examined():
                self._seen.setdefault(name, []).append(_moments(output))

        return hook


@torch.no_grad()
def _moments(x: Tensor) -> np.ndarray:
    """Mean and standard deviation of each channel, float64 [2, C]."""
    values = x.movedim(1, -1).flatten(0, -2).double()
    return torch.stack([values.mean(0), values.std(0, correction=0)]).cpu().numpy()
