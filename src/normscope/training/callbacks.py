"""Callbacks of the training loop: norms of gradients and weights, and how far a run is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from normscope.records.progress import RunProgress
from normscope.training.loop import Callback, Epoch


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
        self._taken = steps  # in the epoch that ends

    def on_backward(self, index: Tensor) -> None:
        gradients = [weight.grad for weight in self._weights.values()]
        norms = [
            torch.zeros((), device=self._norms.device) if g is None else g.norm() for g in gradients
        ]
        self._norms[index] = torch.stack(norms)

    def on_step(self, epoch: int, index: int) -> None:
        self._taken = index + 1

    def scalars(self) -> dict[str, Tensor]:
        norms = self._norms[: self._taken]
        norms = norms if norms.device.type == "mps" else norms.double()
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


class WeightNorms(Callback):
    """The l2 norm of the weight of every convolution and linear layer after each epoch.

    `weight_norm.NAME` for the layer NAME, and `convolution_norm`, the geometric mean over the
    convolutions, where there is any.
    """

    def __init__(self, model: nn.Module):
        layers = dict(model.named_modules())
        self._weights = {
            name: layer.weight
            for name, layer in layers.items()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        self._convolutions = [n for n in self._weights if isinstance(layers[n], nn.Conv2d)]

    def scalars(self) -> dict[str, Tensor]:
        norms = {name: weight.detach().norm() for name, weight in self._weights.items()}
        found = {f"weight_norm.{name}": norm for name, norm in norms.items()}
        if self._convolutions:
            chosen = torch.stack([norms[name] for name in self._convolutions])
            found["convolution_norm"] = chosen.log().mean().exp()
        return found


Report = Callable[[RunProgress], None]

SECONDS_BETWEEN_REPORTS = 0.5


class ProgressCallback(Callback):
    """Report a run's progress after every epoch, and twice a second within one."""

    def __init__(
        self,
        run: str,
        steps_per_epoch: int,
        report: Report,
        epochs_done: int = 0,
        unit: str = "image",
    ):
        self._run, self._steps, self._report = run, steps_per_epoch, report
        self._last = RunProgress(run, epochs_done, unit=unit)
        self._reported = time.monotonic()
        report(self._last)

    def on_step(self, epoch: int, index: int) -> None:
        now = time.monotonic()
        if now - self._reported < SECONDS_BETWEEN_REPORTS:
            return
        self._reported = now
        done = epoch - 1 + (index + 1) / self._steps
        self._report(replace(self._last, epochs_done=done))

    def on_epoch(self, epoch: Epoch) -> None:
        scalars = epoch.scalars
        self._last = replace(
            self._last,
            epochs_done=epoch.number,
            train_loss=scalars["train_loss"],
            test_accuracy=scalars["test_accuracy"],
            images_per_second=scalars["images_per_second"],
        )
        self._report(self._last)
