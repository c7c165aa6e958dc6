"""One batch normalization layer of a trained network, worked through on the next training batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.data.dataset import Dataset
from normscope.errors import InputError
from normscope.models.batch_norm import BatchNormSteps, steps_of
from normscope.models.batch_norm import RunningStatistics as Running
from normscope.models.network import Network
from normscope.models.transformer import Transformer
from normscope.records.explanation import Explanation, Forgotten, RunningStatistics
from normscope.studies.grid import batches_for
from normscope.studies.spec import RunSpec
from normscope.user_models.norm_layers import is_norm
from normscope.watching.watched_layers import find_layers

SHOWN_IMAGES = 8
"""Images of the batch that the record keeps, to be shown beside what the layer gets of them."""

LISTED = 8
"""Layers that a message names at most."""


@dataclass(frozen=True)
class Choice:
    """The layer that is explained, and the other batch normalizations that match the pattern."""

    name: str
    others: tuple[str, ...]


def choose_layer(model: Network, pattern: str | None, norm: str, channel: int | None) -> Choice:
    """The first batch normalization that a name or pattern matches; without one, the first in the
    first stage.

    Raises:
        InputError: if nothing matches, or what matches is no batch normalization, or it has no such
            channel.
    """
    if isinstance(model, Transformer):
        raise InputError(
            "One batch normalization of a convolutional network is explained, and this network is "
            "a transformer (--model)."
        )
    norms = {name: module for name, module in model.named_modules() if is_norm(module)}
    if not norms:
        raise InputError(
            f"The network has no normalization layer: its norm is {norm!r}; expected batch "
            "normalization (--norm)."
        )
    found = {
        layer.name: layer.module
        for layer in find_layers(model, pattern or model.landmarks.first_normalization)
    }
    explained = [(name, module) for name, module in found.items() if _is_batch_norm(module)]
    if not explained:
        name, module = next(iter(found.items()))
        known = [name for name, module in norms.items() if _is_batch_norm(module)]
        more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
        those = (
            f"Those of this network: {', '.join(known[:LISTED])}{more}"
            if known
            else f"This network has none: its norm is {norm!r} (--norm)"
        )
        raise InputError(
            f"Layer {name!r} is a {type(module).__name__}; expected a torch.nn.BatchNorm2d, whose "
            f"forward a subclass may not change. {those}."
        )
    (name, layer), *others = explained
    if channel is not None and channel >= layer.num_features:
        raise InputError(
            f"Channel {channel} does not exist: {name} has the channels 0 to "
            f"{layer.num_features - 1} (--channel)."
        )
    return Choice(name, tuple(name for name, _ in others))


def _is_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Return whether it computes what `models.batch_norm` defines: a subclass may not."""
    return isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward


def explain_layer(
    model: Network,
    choice: Choice,
    dataset: Dataset,
    spec: RunSpec,
    *,
    channel: int | None,
    forgotten: Forgotten,
    meta: Mapping[str, object],
) -> Explanation:
    """Run the layer in train mode on the first batch of the epoch after the last, on the CPU in
    float32.

    The steps are float64 arithmetic on the float32 values that the layer was given. The model is
    left as it is. Without a channel, the one is worked through whose mean is furthest from 0.

    Raises:
        InputError: if the batch has one value per channel.
    """
    images, labels = next(iter(batches_for(dataset, spec).train(spec.seed, spec.epochs + 1)))
    layer = copy.deepcopy(model.get_submodule(choice.name))
    assert isinstance(layer, _BatchNorm)
    x = _input_of(model, choice.name, images)
    doubled = copy.deepcopy(layer).double()
    steps = steps_of(doubled, x.double(), training=True)
    in_eval_mode = steps_of(doubled, x.double(), training=False)
    running = steps.running_before
    assert steps.unbiased_var is not None  # in train mode
    return Explanation(
        layer=choice.name,
        layer_type=type(layer).__name__,
        chosen=int(steps.mean.abs().argmax()) if channel is None else channel,
        eps=layer.eps,
        momentum=layer.momentum,
        batches_before=0 if running is None else running.batches,
        x=x.contiguous().numpy(),
        labels=labels.numpy(),
        images=_as_pixels(images[:SHOWN_IMAGES], dataset),
        mean=steps.mean.numpy(),
        var=steps.var.numpy(),
        unbiased_var=steps.unbiased_var.numpy(),
        weight=_vector(steps.weight),
        bias=_vector(steps.bias),
        running_before=_running(running),
        running_after=_running(steps.running_after),
        disagreement=_disagreement(layer, x, steps, in_eval_mode),
        forgotten=forgotten,
        meta=dict(meta),
    )


@torch.no_grad()
def _input_of(model: Network, layer: str, images: Tensor) -> Tensor:
    """Return the layer's input at its first call in train mode, float32 [N, C, H, W]."""
    running = copy.deepcopy(model).train()
    inputs: list[Tensor] = []
    handle = running.get_submodule(layer).register_forward_pre_hook(
        lambda _, given: inputs.append(given[0].clone())
    )
    try:
        running(images)
    finally:
        handle.remove()
    return inputs[0]


@torch.no_grad()
def _disagreement(
    layer: _BatchNorm, x: Tensor, steps: BatchNormSteps, in_eval_mode: BatchNormSteps
) -> float:
    """Return the largest difference between the steps and the layer, in outputs and buffers."""
    layer, after = copy.deepcopy(layer), steps.running_after
    pairs = [(layer.eval()(x), in_eval_mode.output), (layer.train()(x), steps.output)]
    if layer.running_mean is not None and layer.running_var is not None and after is not None:
        pairs += [(layer.running_mean, after.mean), (layer.running_var, after.var)]
    return max(float((one.double() - other).abs().max()) for one, other in pairs)


def _as_pixels(images: Tensor, dataset: Dataset) -> np.ndarray:
    """Normalized images [K, C, H, W] back as uint8 [K, H, W, C]."""
    pixels = images.permute(0, 2, 3, 1).numpy() * np.asarray(dataset.std) + np.asarray(dataset.mean)
    return np.rint(255 * pixels).clip(0, 255).astype(np.uint8)


def _running(running: Running | None) -> RunningStatistics | None:
    return None if running is None else RunningStatistics(running.mean.numpy(), running.var.numpy())


def _vector(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()
