"""L2 norms of a few layers' gradients at every step, kept on the device until the epoch ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normscope.training.loop import Callback


class GradientNorms(Callback):
    """The norm of the gradient of `weights` at every step, as statistics of the epoch.

    Args:
        weights: by the names that their norms get.
        steps: in an epoch.

    For a weight called "stem": `stem_gradient` (after the epoch's last step), `stem_gradient_mean`,
    `_std` (over the steps, the population's), `_min` and `_max`.
    """

    def __init__(self, weights: dict[str, nn.Parameter], steps: int):
        self._weights = weights
        device = next(iter(weights.values())).device
        self._norms = torch.zeros(steps, len(weights), device=device)

    def on_backward(self, index: Tensor) -> None:
        gradients = [weight.grad for weight in self._weights.values()]
        norms = [
            torch.zeros((), device=self._norms.device) if g is None else g.norm() for g in gradients
        ]
        self._norms[index] = torch.stack(norms)

    def scalars(self) -> dict[str, Tensor]:
        norms = self._norms if self._norms.device.type == "mps" else self._norms.double()
        statistics = {
            "": norms[-1],
            "_mean": norms.mean(0),
            "_std": norms.std(0, correction=0),
            "_min": norms.amin(0),
            "_max": norms.amax(0),
        }
        return {
            f"{name}_gradient{suffix}": values[column]
            for column, name in enumerate(self._weights)
            for suffix, values in statistics.items()
        }
