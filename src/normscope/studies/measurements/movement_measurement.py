"""Movement of the normalization layers' outputs from step to step while a run trains."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.studies.measurements.batch_statistics_measurement import normalization_names
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.user_models.state_guard import is_examined


def movement(context: RunContext) -> Arrays:
    """Per channel of all places, joined in the order of the forward pass, float64 [channels]:
    "place" and "movement".

    Places are the layers that batch normalization has in this network, whatever normalizes there,
    or an identity. The run is trained once more in fp32 on the CPU, and every step of it counts.
    """
    model = context.fresh()
    moving = Movement({name: model.get_submodule(name) for name in normalization_names(context)})
    with moving.watching():
        context.retrain(model)
    found = list(moving.of_channels().values())
    return {
        "place": np.repeat(np.arange(len(found)), [len(values) for values in found]),
        "movement": np.concatenate(found),
    }


class Movement:
    """Mean and standard deviation of every channel of modules' outputs, at every training forward.

    Forwards of modules in eval mode, and those of other measurements, do not count.

    Args:
        layers: {name: module whose output is (N, C, H, W)}, each called once in a forward.
    """

    def __init__(self, layers: Mapping[str, nn.Module]):
        self._layers = layers
        self._moments: dict[str, list[np.ndarray]] = {}  # {name: [2, C] for each forward}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the forwards that run inside."""
        with ExitStack() as hooks:
            for name, layer in self._layers.items():
                hooks.enter_context(
                    layer.register_forward_hook(functools.partial(self._count, name))
                )
            yield

    def of_channels(self) -> dict[str, np.ndarray]:
        """Return {name: float64 [C]} in the order of the forward pass: root mean square over the
        steps of how far the channels moved.

        The distance between two normal distributions of the channel's means and standard deviations
        (Wasserstein-2: sqrt(dm^2 + ds^2)), in root mean square standard deviations of the channel,
        so that it has no unit. Includes what the drawing of another batch moves. NaN for a channel
        that is constant or not finite, and for fewer than two steps.
        """
        return {name: _movement(np.stack(rows)) for name, rows in self._moments.items()}

    def _count(self, name: str, layer: nn.Module, args: Any, output: Tensor) -> None:
        if layer.training and not is_examined():
            self._moments.setdefault(name, []).append(_moments(output))


def _movement(moments: np.ndarray) -> np.ndarray:
    """Return `of_channels` of one layer's moments [steps, 2, C]."""
    if len(moments) < 2:
        return np.full(moments.shape[2], np.nan)
    with np.errstate(all="ignore"):  # a training may diverge
        steps = np.square(np.diff(moments, axis=0)).sum(axis=1)
        spread = np.square(moments[:, 1]).mean(axis=0)
        return np.where(spread > 0, np.sqrt(steps.mean(axis=0) / spread), np.nan)


@torch.no_grad()
def _moments(x: Tensor) -> np.ndarray:
    """Mean and standard deviation of each channel, float64 [2, C]."""
    values = x.movedim(1, -1).flatten(0, -2).double()
    return torch.stack([values.mean(0), values.std(0, correction=0)]).cpu().numpy()
