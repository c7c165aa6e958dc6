"""One layer of a trained network, worked through on the next training batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.data.dataset import Dataset
from normscope.errors import InputError
from normscope.models.batch_norm import BatchNormSteps, steps_of
from normscope.models.batch_norm import RunningStatistics as Running
from normscope.models.network import Network
from normscope.models.token_norms import (
    DynamicErf,
    DynamicTanh,
    OffsetLayerNorm,
    OffsetRMSNorm,
    RMSNorm,
)
from normscope.records.explanation import Explanation, Forgotten, RunningStatistics
from normscope.records.token_explanation import TokenExplanation
from normscope.studies.grid import batches_for
from normscope.studies.spec import RunSpec
from normscope.user_models.norm_layers import is_norm
from normscope.watching.watched_layers import find_layers

SHOWN_IMAGES = 8
"""Images of the batch that the record keeps, to be shown beside what the layer gets of them."""

LISTED = 8
"""Layers that a message names at most."""


TOKEN_KINDS: dict[type[nn.Module], str] = {
    nn.LayerNorm: "layer",
    OffsetLayerNorm: "layer",
    nn.RMSNorm: "rms",
    RMSNorm: "rms",
    OffsetRMSNorm: "rms",
    DynamicTanh: "tanh",
    DynamicErf: "erf",
}
"""{layer that takes every token by itself: its kind in `records.token_explanation`}."""


@dataclass(frozen=True)
class Choice:
    """The layer that is explained, and the others that match the pattern."""

    name: str
    kind: str  # batch, or of TOKEN_KINDS
    others: tuple[str, ...]


def choose_layer(model: Network, pattern: str | None, norm: str, channel: int | None) -> Choice:
    """The first layer that a name or pattern matches and that can be explained; without one, the
    first in the first stage.

    Raises:
        InputError: if nothing matches, or what matches cannot be explained, or it has no such
            channel.
    """
    modules = dict(model.named_modules())
    known = [name for name, module in modules.items() if kind_of(module)]
    if not known and not any(map(is_norm, modules.values())):
        raise InputError(
            f"The network has no normalization layer: its norm is {norm!r}; expected another "
            "(--norm)."
        )
    found = find_layers(model, pattern or model.landmarks.first_normalization)
    explained = [layer.name for layer in found if kind_of(layer.module)]
    if not explained:
        more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
        those = (
            f"Those of this network: {', '.join(known[:LISTED])}{more}"
            if known
            else f"This network has none: its norm is {norm!r} (--norm)"
        )
        raise InputError(
            f"Layer {found[0].name!r} is a {type(found[0].module).__name__}; expected a batch "
            "normalization of images, a layer or RMS normalization of tokens, or dynamic tanh or "
            f"erf, whose forward a subclass may not change. {those}."
        )
    name, *others = explained
    width = _width(modules[name])
    if channel is not None and channel >= width:
        raise InputError(
            f"Channel {channel} does not exist: {name} has the channels 0 to {width - 1} "
            "(--channel)."
        )
    return Choice(name, kind_of(modules[name]) or "", tuple(others))


def kind_of(module: nn.Module) -> str | None:
    """Return what a layer computes, as `models.batch_norm` or `records.token_explanation` define
    it; None for any other, also for a subclass with a forward of its own.
    """
    kinds = {_BatchNorm: "batch", **TOKEN_KINDS}
    known = next((each for each in type(module).__mro__ if each in kinds), None)
    if known is None or type(module).forward is not known.forward:
        return None
    several = len(getattr(module, "normalized_shape", (1,))) > 1
    return None if several else kinds[known]


def _width(module: nn.Module) -> int:
    sizes = getattr(module, "num_features", None), *getattr(module, "normalized_shape", ())
    return next((size for size in sizes if size), 0) or len(module.get_parameter("weight"))


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
    """Run a batch normalization in train mode on the first batch of the epoch after the last, on
    the CPU in float32.

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
def explain_tokens(
    model: Network,
    choice: Choice,
    dataset: Dataset,
    spec: RunSpec,
    *,
    channel: int | None,
    meta: Mapping[str, object],
) -> TokenExplanation:
    """Run a layer that takes every token by itself as `explain_layer` does a batch normalization.

    The token is the one of the first sample whose mean, or without a mean root mean square, is
    furthest from 0, and without a channel the value of it that is.
    """
    samples, _ = next(iter(batches_for(dataset, spec).train(spec.seed, spec.epochs + 1)))
    layer = copy.deepcopy(model.get_submodule(choice.name)).float()
    x = _input_of(model, choice.name, samples)
    values = {name: value.double() for name, value in layer.named_parameters()}
    is_offset = isinstance(layer, OffsetLayerNorm | OffsetRMSNorm)
    gain, eps = values.get("weight"), getattr(layer, "eps", 0.0)
    moment = x[0].mean(-1) if choice.kind == "layer" else x[0].square().mean(-1)
    token = (0, *map(int, np.unravel_index(int(moment.abs().argmax()), moment.shape)))
    explanation = TokenExplanation(
        layer=choice.name,
        layer_type=type(layer).__name__,
        kind=choice.kind,
        eps=float(torch.finfo(x.dtype).eps if eps is None else eps),
        alpha=float(values.get("alpha", torch.ones(()))),
        shift=float(values.get("shift", torch.zeros(()))),
        x=x.contiguous().numpy(),
        gain=_vector(gain if gain is None or not is_offset else 1 + gain),
        gain_is_offset=is_offset,
        bias=_vector(values.get("bias")),
        token=token,
        channel=int(x[token].abs().argmax()) if channel is None else channel,
        names=_token_names(samples[0], x.shape[-2], dataset.kind),
        disagreement=0.0,
        between_modes=_largest(layer.train()(x), layer.eval()(x)),
        alone=_largest(layer(x)[:1], layer(x[:1])),
        meta=dict(meta),
    )
    expected = torch.from_numpy(explanation.output(explanation.x))
    return replace(explanation, disagreement=_largest(layer(x), expected))


def _largest(one: Tensor, other: Tensor) -> float:
    """Return the largest difference."""
    return float((one.double() - other).abs().max())


def _token_names(sample: Tensor, tokens: int, kind: str) -> tuple[str, ...]:
    """Return the tokens of a sample: bytes as Python writes them, else their numbers."""
    if kind == "text":
        return tuple(repr(bytes([byte]))[2:-1] for byte in sample.tolist())
    return tuple(map(str, range(tokens)))


@torch.no_grad()
def _input_of(model: Network, layer: str, images: Tensor) -> Tensor:
    """Return the layer's input at its first call in train mode, float32."""
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
    return max(_largest(one, other) for one, other in pairs)


def _as_pixels(images: Tensor, dataset: Dataset) -> np.ndarray:
    """Normalized images [K, C, H, W] back as uint8 [K, H, W, C]."""
    pixels = images.permute(0, 2, 3, 1).numpy() * np.asarray(dataset.std) + np.asarray(dataset.mean)
    return np.rint(255 * pixels).clip(0, 255).astype(np.uint8)


def _running(running: Running | None) -> RunningStatistics | None:
    return None if running is None else RunningStatistics(running.mean.numpy(), running.var.numpy())


def _vector(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()
