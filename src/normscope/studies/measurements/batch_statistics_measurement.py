"""Normalization layers' inputs and outputs over batches and over the steps of a training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.models.network import Network
from normscope.studies.grid import build_for
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.user_models.state_guard import is_examined, preserve_state

BATCHES = 32
"""Training batches of the run's size. Their mean is known to 1/sqrt(32) = 0.18 of their spread."""


def batch_statistics(context: RunContext) -> Arrays:
    """Per channel of all places, joined in the order of the forward pass, in fp32 on the CPU;
    float64 [channels].

    Places are the layers that batch normalization has in this network, whatever normalizes there,
    or an identity. "place" numbers them from 0: only the first has none before it. The others:

    - "before", "after": standard deviation over training batches of the batch mean of what enters
      and leaves the place, in standard deviations of all its values, in train mode;
      "before_in_eval", "after_in_eval" in eval mode.
    - "batch_mean", "batch_sd": distance of a batch's mean from the mean of all values, in their
      standard deviations, and |log(batch standard deviation / theirs)|, the median over the batches
      of what enters, in train mode.
    - "running_mean", "running_sd", for batch normalization: the same of the running statistics. All
      values are the training batches', each layer normalizing by the batch, as in training and as
      `mend.recalibrate` takes them.
    """
    model, names = context.trained(), normalization_names(context)
    layers = {name: model.get_submodule(name) for name in names}
    in_training = batch_moments(model, _images(context), layers, training=True)
    context.progress(0.5)
    in_eval = batch_moments(model, _images(context), layers, training=False)
    order = list(in_training)
    before, after = ([in_training[name][side] for name in order] for side in (0, 1))
    of_a_batch = [_of_a_batch(moments) for moments in before]
    return {
        "place": np.repeat(np.arange(len(order)), [moments.mean.shape[1] for moments in before]),
        "before": _join(moments.spread() for moments in before),
        "after": _join(moments.spread() for moments in after),
        "before_in_eval": _join(in_eval[name][0].spread() for name in order),
        "after_in_eval": _join(in_eval[name][1].spread() for name in order),
        "batch_mean": _join(mean for mean, _ in of_a_batch),
        "batch_sd": _join(sd for _, sd in of_a_batch),
        **_running(model, {name: in_training[name][0] for name in order}),
    }


def normalization_names(context: RunContext) -> list[str]:
    """Return the names of the batch-normalized network's norms; all networks go by these names."""
    twin = dataclasses.replace(context.spec, norm="batch", norm_code="")
    modules = build_for(context.dataset, twin).named_modules()
    return [name for name, module in modules if isinstance(module, _BatchNorm)]


def _images(context: RunContext) -> Iterator[Tensor]:
    return (images for images, _ in context.whole_batches(BATCHES))


def _distances(
    mean: np.ndarray, var: np.ndarray, of: BatchMoments
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of means and variances from those of all values, as in the record."""
    their_mean, their_var = of.pooled()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(mean - their_mean) / np.sqrt(their_var), np.abs(0.5 * np.log(var / their_var))


def _of_a_batch(moments: BatchMoments) -> tuple[np.ndarray, np.ndarray]:
    """The distances of one batch, median over the batches."""
    mean, sd = _distances(moments.mean, moments.var, moments)
    return np.median(mean, axis=0), np.median(sd, axis=0)


def _running(model: Network, given: dict[str, BatchMoments]) -> Arrays:
    """Distances of running statistics from those of the batches; {} if a layer has none."""
    found = []
    for name, moments in given.items():
        layer = model.get_submodule(name)
        if (
            not isinstance(layer, _BatchNorm)
            or layer.running_mean is None
            or layer.running_var is None
        ):
            return {}
        running = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
        found.append(_distances(*running, moments))
    return {
        "running_mean": _join(mean for mean, _ in found),
        "running_sd": _join(sd for _, sd in found),
    }


def _join(parts) -> np.ndarray:
    return np.concatenate(list(parts))


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """A tensor's means and biased variances by batch, float64 [batches, channels] each."""

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

    The model is left as it was, its running statistics among it. Batches (N, ...) are of one size;
    every forward calls each of the layers, from (N, C, ...) to (N, C, ...), once.
    """
    names = {layer: name for name, layer in layers.items()}
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        before = _channel_moments(args[0])
        after = before if output is args[0] else _channel_moments(output)
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


def _channel_moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    # [values, C] is contiguous in channels_last memory, where reductions over (N, H, W) are six
    # times slower
    values = x.movedim(1, -1).flatten(0, -2).double()
    mean = values.mean(0)
    return mean.cpu().numpy(), (values - mean).square().mean(0).cpu().numpy()


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
