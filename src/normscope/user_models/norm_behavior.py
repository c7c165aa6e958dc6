"""Find the axes over which a normalization layer took its statistics, from one call.

Each way of normalizing is tried on the input, and the one that explains the output is taken. A
class's name is a hint that breaks ties; an answer that explains nothing is no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normscope.user_models.norm_layers import NormLayer

UNEXPLAINED = 1e-3
"""This share of the output's variance may be left by a fit of gain and bias at most."""

MIN_ROWS = 8
"""A gain and a bias fit fewer values per channel without saying anything."""

USUAL_EPS = (None, 1e-6, 1e-5)
"""What is tried where a layer does not say its epsilon: small inputs show it."""

_ROWS, _DOUBLES = 512, 1 << 22


@dataclass(frozen=True)
class Behavior:
    """The way a call normalized: kind as in NormLayer, and the channels' dimension, 1 or -1."""

    kind: str
    channel_axis: int
    groups: int | None = None

    def arranged(self, values: Tensor) -> Tensor:
        """Return the tensor with the channels where layers of the kind have them.

        That is dimension 1, for layer and RMS normalizations the last.
        """
        wanted = -1 if self.kind in ("layer", "rms") else 1
        return values if values.dim() < 3 else values.movedim(self.channel_axis, wanted)


class Moments(NamedTuple):
    """Mean and inverse standard deviation, as a layer used them: the eps is inside."""

    mean: Tensor
    invstd: Tensor


def ways(layer: NormLayer, x: Tensor) -> Iterator[Behavior]:
    """Yield the ways of normalizing that the sizes allow, the recognized one first."""
    first = -1 if layer.kind in ("layer", "rms") else 1
    axes = [axis for axis in (first, -first) if _fits(layer, x, axis)]
    kinds = dict.fromkeys((layer.kind, "layer", "rms", "group", "instance", "batch"))
    if layer.recognized_by in ("class name", "name"):
        kinds.pop("batch")  # any affine map of the channels looks like one
    groups = dict.fromkeys((layer.groups or 1, 1))
    for kind in kinds:
        for axis in axes:
            if kind in ("group", "instance") and x.dim() < 3 and kind != layer.kind:
                continue
            for count in groups if kind == "group" else (None,):
                if count is None or x.shape[axis] % count == 0:
                    yield Behavior(kind, axis, count)


def _fits(layer: NormLayer, x: Tensor, axis: int) -> bool:
    """Tell whether the channels may stand there: 1 and -1 are one axis of [N, C]."""
    if layer.normalized_dims > 1:
        return axis == -1
    usual = axis == (-1 if layer.kind in ("layer", "rms") else 1)
    sized = layer.channels in (None, 1, x.shape[axis])  # a gain of one value tells nothing
    return sized and (usual or x.dim() > 2)


def behavior_of(
    layer: NormLayer, x: Tensor, y: Tensor, saved: Moments | None = None
) -> Behavior | None:
    """Return how one call normalized, None if no way of normalizing explains it.

    Waits for a GPU. Nothing random is drawn.

    Args:
        layer: what the module was taken for.
        x: its input, floating, [N, C], [N, C, ...] or [N, ..., C].
        y: its output.
        saved: what its operation saved for backward, where it did: proof also where an activation
            stands behind the normalization.
    """
    if x.shape != y.shape or x.dim() < 2 or not x.numel() or not y.is_floating_point():
        return None
    possible = list(ways(layer, x))
    with torch.no_grad():
        x, y = x.detach(), y.detach()
        if saved is not None:
            possible = [way for way in possible if _made(way, layer, x, saved)]
            if len({way.channel_axis for way in possible}) == 1:
                # several that fit differ in name only: the recognized kind's
                return next((way for way in possible if way.kind == layer.kind), possible[0])
        return _explaining(possible, layer, _few(x), _few(y))


@dataclass(frozen=True)
class Convention:
    """The affine part of a call, beside what the module holds.

    Attributes:
        gain: "w" where the normalized value is multiplied by the module's gain, "1 + w" by one
            more, "none" where it is left as it is, "other".
        bias: whether something is added.
    """

    gain: str
    bias: bool


def convention_of(
    way: Behavior, layer: NormLayer, gain: Tensor | None, x: Tensor, y: Tensor
) -> Convention | None:
    """Return what a call did to normalized values, None where too few rows show it."""
    with torch.no_grad():
        x, y = _few(x.detach()), _few(y.detach())
        normalized, made = _fitted(way, layer, x, y)
        if len(made) < MIN_ROWS or way.kind == "batch":
            return None
        center, mean = normalized.mean(0), made.mean(0)
        energy = (normalized - center).square().sum(0)
        slope = ((normalized - center) * (made - mean)).sum(0) / energy
        live = energy > 0
        offset = (mean - slope * center)[live]
        slope = slope[live]
    size = slope.abs().max().clamp_min(1e-30) if len(slope) else 1.0
    bias = bool(len(offset)) and bool((offset.abs() > 0.01 * size).any())
    return Convention(_gain_convention(slope, gain, live), bias)


def _gain_convention(slope: Tensor, gain: Tensor | None, live: Tensor) -> str:
    """Name what was done with a gain [C] or [1] by the factors [live] that are seen."""

    def close(expected: Any) -> bool:
        return bool(torch.allclose(slope, expected, rtol=0.02, atol=0.005))

    if gain is not None and gain.numel() in (1, len(live)):
        values = gain.detach().flatten().to(slope)
        held = values[live] if len(values) == len(live) else values.expand_as(slope)
        if close(held):
            return "w"
        if close(1 + held):
            return "1 + w"
    return "none" if gain is None and close(torch.ones_like(slope)) else "other"


def _few(values: Tensor) -> Tensor:
    """Return some samples in float64; they show every way but that of whole batches."""
    positions = max(values[0].numel() // max(values.shape[1], values.shape[-1]), 1)
    count = max(2, -(-_ROWS // positions))
    if values[0].numel() > _DOUBLES:
        count = 1
    few = values[:count]
    wide = few.numel() <= _DOUBLES and few.device.type != "mps"
    return few.double() if wide else few.float()


def _explaining(
    possible: list[Behavior], layer: NormLayer, x: Tensor, y: Tensor
) -> Behavior | None:
    """Return the way that leaves the least of y unexplained; the recognized one if as good."""
    guesses = [layer] if layer.eps else [replace(layer, eps=eps) for eps in USUAL_EPS]
    left = {way: min(_unexplained(way, each, x, y) for each in guesses) for way in possible}
    least = min(left.values(), default=torch.inf)
    if not least <= UNEXPLAINED:
        return None
    return next(way for way, share in left.items() if share <= 10 * least + 1e-9)


def _unexplained(way: Behavior, layer: NormLayer, x: Tensor, y: Tensor) -> float:
    """Return the share of y's variance that gain and bias cannot make of the normalized x."""
    normalized, made = _fitted(way, layer, x, y)
    if len(made) < MIN_ROWS:
        return torch.inf
    normalized = normalized - normalized.mean(0)
    made = made - (mean := made.mean(0))
    total = made.square().sum()
    if not total > 1e-12 * (mean.square().sum() * len(made) + total):
        return torch.inf  # a constant: everything explains it
    energy = normalized.square().sum(0)
    slope = torch.where(energy > 0, (normalized * made).sum(0) / energy, 0)
    rest = (made - slope * normalized).square().sum()
    share = float(rest / total) * len(made) / (len(made) - 2)
    return share if share == share else torch.inf


def _fitted(way: Behavior, layer: NormLayer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normalized input and the output, [rows, values of one gain] each."""
    normalized = _rows(_normalized(way, layer, x), layer)
    made = _rows(way.arranged(y), layer) if way.kind in ("layer", "rms") else _last(way, y)
    return normalized, made


def _normalized(way: Behavior, layer: NormLayer, x: Tensor) -> Tensor:
    """Return the input normalized in one way, without gain and bias, channels last."""
    eps = layer.eps or 1e-30  # so that zeros stay zeros
    if way.kind in ("layer", "rms"):
        values = way.arranged(x)
        dims = tuple(range(-max(layer.normalized_dims, 1), 0))
        mean = values.mean(dims, keepdim=True) if way.kind == "layer" else 0
        centered = values - mean
        return centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()
    if way.kind == "batch":  # the fit finds the gain and offset of each channel in any mode
        return _last(way, x)
    sets = _sets(way, x)
    centered = sets - sets.mean(-1, keepdim=True)
    values = centered * (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    return values.reshape(way.arranged(x).shape).movedim(1, -1).flatten(0, -2)


def _sets(way: Behavior, x: Tensor) -> Tensor:
    """[N, G, values] of what a group or instance normalization takes together."""
    values = way.arranged(x)
    groups = values.shape[1] if way.kind == "instance" else way.groups or 1
    return values.reshape(len(values), groups, -1)


def _last(way: Behavior, values: Tensor) -> Tensor:
    """[rows, C] of a tensor whose channels stand where the way has them."""
    return way.arranged(values).movedim(1, -1).reshape(-1, values.shape[way.channel_axis])


def _rows(values: Tensor, layer: NormLayer) -> Tensor:
    """[rows, values] of a tensor whose last dimensions are normalized together."""
    return values.reshape(-1, values.shape[-max(layer.normalized_dims, 1) :].numel())


def _made(way: Behavior, layer: NormLayer, x: Tensor, saved: Moments) -> bool:
    """Tell whether the saved statistics are those that this way takes of the whole input."""
    values = way.arranged(x)
    values = values if values.dtype == torch.float64 else values.float()
    if way.kind == "rms":
        return False  # saves no mean
    if way.kind == "layer":
        sets = values.flatten(-max(layer.normalized_dims, 1))
    elif way.kind == "batch":
        sets = values.movedim(1, 0).flatten(1)
    else:
        sets = _sets(way, x).to(values.dtype)
    if saved.mean.numel() != sets[..., 0].numel():
        return False
    var, mean = torch.var_mean(sets, -1, correction=0)
    var, mean = var.flatten(), mean.flatten()
    eps = 0.0 if layer.eps is None else layer.eps
    std = (var + eps).sqrt().clamp_min(torch.finfo(var.dtype).tiny)
    apart = (saved.mean.flatten().to(mean) - mean).abs() / std
    ratio = (saved.invstd.flatten().to(std) * std - 1).abs()
    return bool((apart < UNEXPLAINED * 10).all() & (ratio < UNEXPLAINED * 10).all())
