"""The values at one normalization layer on a few batches, in a few numbers per channel."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.errors import one_line
from normscope.examining.moments import (
    TINY,
    affine_in_effect,
    batch_moments,
    eval_facts,
    joined,
    reference_facts,
    sample_moments,
)
from normscope.examining.own_arithmetic import eps_response, own_arithmetic
from normscope.examining.recognition import as_called
from normscope.records.examination import Layer, Measured
from normscope.user_models.norm_behavior import Behavior, behavior_of
from normscope.user_models.norm_layers import NormLayer, recognize
from normscope.user_models.wrappers import local_affine

SET_BATCHES = 4
"""Quantiles of per-sample variances are taken from so many batches."""

MAX_CALLS = 64


class Meter:
    """The facts of one layer. `start` begins a forward, and says what its inputs mean."""

    def __init__(self, layer: Layer, module: nn.Module):
        self.layer, self.module = layer, module
        self.norm = recognize(module, layer.name)
        self.recognition = layer.recognition
        self.failure = ""  # why nothing more is measured
        self.mode = "eval"
        self.call = 0
        self.shape_values: list[int] = []
        self.shape_samples: list[int] = []
        # per batch: mean, unbiased variance, and the noise of each
        self.reference: list[tuple[np.ndarray, ...]] = []
        # per batch: N, mean, sum within, variance
        self.evaluated: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self.calls: list[list[tuple[np.ndarray, np.ndarray]]] = []
        self.dropped: list[np.ndarray] = []
        self.set_var: list[np.ndarray] = []
        self.set_square: list[np.ndarray] = []
        self.first: tuple[Tensor, Tensor] | None = None
        self.facts: dict[str, Any] = {"input_non_finite": 0, "output_non_finite": 0}
        self.padding: list[tuple[float, float]] = []
        self.masks: list[Tensor] = []
        self.samples = 0  # of the batch, where they are known
        self.rows = 0  # of the first call's input in this forward, samples joined
        self.independent = True  # the rows are samples that know nothing of one another
        self.dilution = 1.0  # rows to one independent sample, as far as it is known
        self.repeated = False
        self.largest = 0.0  # |x|
        self.arrangement: Behavior | None = None  # of a layer whose forward is somebody's own

    def start(self, mode: str, masks: list[Tensor], samples: int = 0) -> None:
        """Begin a forward in mode "eval", "alone", "batch", "dropout", or "output": unmeasured."""
        self.mode, self.call, self.masks, self.samples = mode, 0, masks, samples

    def end(self, outputs: int | None) -> None:
        """End an eval forward that gave so many outputs; None where that is not known.

        Rows of graphs' nodes, points or regions are no independent samples: there are as many of
        those as outputs.
        """
        if not self.call or not self.per_channel:
            return
        self.independent &= self.rows == self.samples and outputs in (None, self.samples)
        if outputs:
            self.dilution = max(self.dilution, self.rows / outputs)

    @property
    def per_channel(self) -> bool:
        """Tell whether the layer takes a mean and a variance for each channel."""
        return self.layer.kind in ("batch", "instance")

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Measure one call of the layer, by its input and output.

        A fault in that is no fault of the model: the layer is left alone, and `failure` says why.
        """
        if self.failure:
            return
        try:
            if self.norm is not None and not self.norm.plain:
                self.arrangement = self.arrangement or self._arrangement(self.norm, x, y)
                x, y = self.arrangement.arranged(x), self.arrangement.arranged(y)
            self._measure(x, y)
        except Exception as error:  # whatever a model's tensors may be
            self.failure = one_line(error)

    def repeat(self, args: Any, kwargs: Any, output: Tensor) -> None:
        """Repeat a layer's first eval call, where its forward is somebody's own, or of 16 bits."""
        if self.repeated or self.mode != "eval" or self.norm is None:
            return
        self.repeated = True
        if self.norm.plain:
            return
        if output.device.type == "mps":
            self.facts["repeat_failure"] = "its device has no float64"
            return
        try:
            self.facts |= own_arithmetic(self.module, args, kwargs, output)
        except Exception as error:  # it takes no other type, or keeps more than tensors
            self.facts["repeat_failure"] = one_line(error)
        if self.layer.kind not in ("layer", "rms") or not self.layer.eps:
            return
        try:
            response = eps_response(self.module, args, kwargs, output, self.layer.eps)
            self.facts["eps_response"] = response
        except Exception as error:
            self.facts["eps_failure"] = one_line(error)

    def _arrangement(self, norm: NormLayer, x: Tensor, y: Tensor) -> Behavior:
        """Return where the layer's channels stand, by what it did, else by sizes and kind."""
        behavior = behavior_of(norm, x, y)
        self.recognition = as_called(norm, self.module, behavior, x, y)
        if behavior is not None:
            self.layer = replace(self.layer, kind=behavior.kind, groups=behavior.groups or 0)
            return behavior
        kind, usual = self.layer.kind, -1 if self.layer.kind in ("layer", "rms") else 1
        axes = [axis for axis in (usual, -usual) if x.shape[axis] == self.layer.features]
        return Behavior(kind, axes[0] if axes else usual)

    def _measure(self, x: Tensor, y: Tensor) -> None:
        call, self.call = self.call, self.call + 1
        if self.mode == "eval":
            self._evaluate(x, y, call)
        elif self.mode == "alone" and call == 0 and self.first is not None:
            self.facts["alone_input"] = _relative(x.detach(), self.first[0])
            self.facts["alone_output"] = _relative(y.detach(), self.first[1])
        elif self.mode == "batch" and self.per_channel and call < MAX_CALLS:
            mean, square = self._moments(x)
            self.reference.append(batch_moments(mean, square, _positions(x) * len(x) // len(mean)))
        elif self.mode == "dropout" and self.per_channel and call == 0:
            mean, square = self._moments(x)
            self.dropped.append(square.mean(0) - mean.mean(0) ** 2)

    def _moments(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return joined(sample_moments(x), self.samples)

    def _evaluate(self, x: Tensor, y: Tensor, call: int) -> None:
        new = not self.shape_values
        if not self.per_channel:
            self.facts["input_non_finite"] += _non_finite(x)
        self.facts["output_non_finite"] += _non_finite(y)
        self.largest = max(self.largest, _number(x.detach().abs().max()) or 0.0)
        self.shape_samples.append(len(x))
        self.shape_values.append(_values_behind_one_statistic(self.layer, x))
        if new:
            self._first_call(x, y)
        if self.layer.kind != "batch" and len(self.set_var) < SET_BATCHES:
            var, square = _set_moments(self.layer, x)
            self.set_var.append(var)
            self.set_square.append(square)
        if not self.per_channel:
            return
        mean, square = self._moments(x)
        if not np.isfinite(mean).all():
            self.facts["input_non_finite"] += _non_finite(x)
        batch_mean = mean.mean(0)
        var = square.mean(0) - batch_mean**2
        if call == 0:
            self.rows = len(mean)
            self.evaluated.append((len(mean), batch_mean, ((mean - batch_mean) ** 2).sum(0), var))
            self._pad(x)
        if call < MAX_CALLS:
            self.calls += [[] for _ in range(call + 1 - len(self.calls))]
            self.calls[call].append((batch_mean, var))

    def _first_call(self, x: Tensor, y: Tensor) -> None:
        self.first = (x[:1].detach().clone(), y[:1].detach().clone())
        values = x.detach().float().flatten()
        shifted = values - values[0]  # so that a constant has exactly no spread
        self.facts["input_spread"] = _number(shifted.std(correction=0))
        self.facts["output_spread"] = _normalized_spread(self.layer, self.module, y)
        if self.layer.kind in ("layer", "rms"):
            self.facts |= affine_in_effect(self.layer, x, y)
        if self.per_channel and x.ndim == 3 and x.shape[1] == x.shape[2]:
            spreads = [x.float().std(dim=dims, correction=0) for dims in ((0, 2), (0, 1))]
            ratios = [float(std.max() / std.min().clamp_min(TINY)) for std in spreads]
            if all(map(math.isfinite, ratios)):
                self.facts["axis_spread"] = tuple(ratios)

    def _pad(self, x: Tensor) -> None:
        size = (len(x), x.shape[-1])
        mask = next((m for m in self.masks if x.ndim >= 3 and m.shape == size), None)
        if mask is None:
            return
        shape = (len(x), 1, *(1,) * (x.ndim - 3), x.shape[-1])
        real = mask.view(shape).expand_as(x).float()
        dims = tuple(d for d in range(x.ndim) if d != 1)
        inside = real.sum(dims).clamp_min(1)
        mean = (x.float() * real).sum(dims) / inside
        centred = (x.float() - mean.view(1, -1, *(1,) * (x.ndim - 2))) * real
        masked = centred.square().sum(dims) / inside
        plain = x.float().var(dim=dims, correction=0)
        ratio = (plain.clamp_min(TINY) / masked.clamp_min(TINY)).log().abs()
        self.padding.append((1 - float(mask.float().mean()), float(ratio.median())))

    def measured(self) -> Measured | None:
        """Return the facts, or None if the layer never ran, or could not be measured."""
        if self.failure or not self.shape_values:
            return None
        facts = dict(self.facts)
        if self.reference:
            facts |= reference_facts(self.reference, self.dilution)
        facts |= eval_facts(self.evaluated)
        if not self.independent:
            facts.pop("heterogeneity", None)
        if len(self.calls) > 1:
            moments = [np.mean(entries, axis=0) for entries in self.calls]  # [2, C] each
            facts["call_mean"], facts["call_var"] = np.stack(moments, axis=1)
        if self.set_var:
            facts["set_var"] = _quantiles(self.set_var)
            facts["set_mean_square"] = _quantiles(self.set_square)
        if self.padding:
            padding, effects = zip(*self.padding, strict=True)
            facts |= {"padding": float(np.mean(padding)), "padding_effect": float(np.mean(effects))}
        if self.dropped and "var" in facts:
            alive = facts["var"] > (self.layer.eps or 0)
            if alive.any():
                ratio = np.mean(self.dropped, axis=0)[alive] / facts["var"][alive]
                facts["dropout_ratio"] = float(np.median(ratio))
        return Measured(
            batches=len(self.evaluated) or len(self.shape_values),
            samples=min(self.shape_samples),
            input_largest=self.largest,
            values=min(self.shape_values),
            **facts,
        )


def _positions(x: Tensor) -> int:
    return max(math.prod(x.shape[2:]), 1)


def _values_behind_one_statistic(layer: Layer, x: Tensor) -> int:
    """Count the values behind one mean and variance: per channel, or per sample and group."""
    if layer.kind == "batch":
        return len(x) * _positions(x)
    if layer.kind == "instance":
        return _positions(x)
    if layer.kind == "group":
        return x.shape[1] // max(layer.groups, 1) * _positions(x)
    return math.prod(x.shape[x.ndim - max(layer.normalized_dims, 1) :])


def _set_moments(layer: Layer, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Variance and mean square of every normalized set: a sample's channel, group or vector."""
    values = x.detach().float()
    if layer.kind == "instance":
        sets = values.reshape(len(x) * x.shape[1], -1)
    elif layer.kind == "group":
        sets = values.reshape(len(x) * max(layer.groups, 1), -1)
    else:
        sets = values.reshape(-1, _values_behind_one_statistic(layer, x))
    return sets.var(1, correction=0).cpu().numpy(), sets.square().mean(1).cpu().numpy()


def _normalized_spread(layer: Layer, module: nn.Module, y: Tensor) -> float | None:
    """Standard deviation of the normalized value, without gain and bias; None for a gain of 0."""
    if layer.foreign and layer.kind in ("layer", "rms"):
        # The convention of its weight is not known: Gemma scales by 1 + weight.
        return _number(y.float().std(correction=0))
    weight, bias = local_affine(module)
    values = y.detach().float()
    shape = (1, -1, *(1,) * (y.ndim - 2)) if layer.kind in ("batch", "instance", "group") else (-1,)
    if layer.kind in ("layer", "rms"):
        values = values.reshape(-1, _values_behind_one_statistic(layer, y))
    if bias is not None:
        values = values - bias.detach().float().reshape(shape)
    if weight is not None:
        scale = weight.detach().float().reshape(shape)
        if float(scale.abs().max()) == 0:
            return None
        values = torch.where(scale.abs() > 1e-6, values / scale, torch.nan)
        values = values[~values.isnan()]
    return _number(values.std(correction=0)) if values.numel() else None


def _relative(value: Tensor, reference: Tensor) -> float | None:
    if value.shape != reference.shape:
        return None
    scale = reference.float().norm().clamp_min(TINY)
    return _number((value.float() - reference.float()).norm() / scale)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _quantiles(parts: list[np.ndarray]) -> tuple[float, ...]:
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return tuple(float(q) for q in np.quantile(values, (0.05, 0.5, 0.95))) if len(values) else ()


def _non_finite(x: Tensor) -> int:
    """Count the values that are not finite; a sum shows in one pass that there are none."""
    if bool(x.detach().sum(dtype=torch.float32).isfinite()):
        return 0
    return int((~x.detach().isfinite()).sum())
