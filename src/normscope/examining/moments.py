"""Moments of a layer's input per sample and channel, and of batches: float64 on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from normscope.records.examination import Layer

TINY = 1e-30
FITTED_ROWS, LEAST_ROWS = 512, 8
FIT = 1e-3
"""A gain leaves no larger share of the output's variance unexplained."""
CANCELLATION = 100.0
"""From so many times the variance on, a squared mean costs fp32 sums digits: values are shifted."""


def sample_moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and mean square of every sample's channels, float64 [N, C] each, of an input
    [N, C, ...].

    Where an offset dwarfs the spread, the sums run over values shifted by the first sample's mean:
    in fp32 the offset would cancel the spread.
    """
    flat = x.detach().float().reshape(len(x), x.shape[1], -1)
    mean, square = _plain_moments(flat)
    around = (square - mean**2).mean(0)
    if not (mean**2 > CANCELLATION * np.maximum(around[None], TINY)).any():
        return mean, square
    shift = flat[:1].mean(2, keepdim=True)
    mean, square = _plain_moments(flat - shift)
    offset = shift[:, :, 0].double().cpu().numpy()
    return mean + offset, square + 2 * offset * mean + offset**2


def _plain_moments(flat: Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean = flat.mean(2).double().cpu().numpy()
    norm = torch.linalg.vector_norm(flat, dim=2).double().cpu().numpy()
    return mean, norm**2 / flat.shape[2]


def joined(moments: tuple[np.ndarray, np.ndarray], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments of samples from those of their rows, which stand one after the other.

    A model that flattens tokens or patches into rows, [N, T, C] into [N T, C], gives a layer rows
    that are far from independent: taken for samples, they would make any two batches look
    different.
    """
    rows = len(moments[0])
    if samples < 1 or rows == samples or rows % samples:
        return moments
    mean, square = (value.reshape(samples, rows // samples, -1).mean(1) for value in moments)
    return mean, square


def batch_moments(mean: np.ndarray, square: np.ndarray, positions: int) -> tuple[np.ndarray, ...]:
    """Return (batch mean, unbiased batch variance, iid variances of the two)."""
    samples = len(mean)
    values = samples * positions
    batch_mean = mean.mean(0)
    # each sample's mean square around the batch mean
    around = square - 2 * batch_mean * mean + batch_mean**2
    var = around.mean(0) * values / max(values - 1, 1)
    if samples == 1:  # nothing shows how samples differ: take its positions as independent
        return batch_mean, var, var / max(values, 1), 2 * var**2 / max(values, 1)
    mean_noise = mean.var(0, ddof=1) / samples
    var_noise = around.var(0, ddof=1) / samples
    return batch_mean, var, mean_noise, np.maximum(var_noise, 2 * var**2 / max(values - 1, 1))


def reference_facts(batches: list[tuple[np.ndarray, ...]], dilution: float) -> dict[str, Any]:
    """Return the means of `batch_moments` over batches, and the noise of one batch's mean and of
    the logarithm of its variance.

    The noises are taken over all batches before they are divided: a rare channel has batches
    without any variance.

    Args:
        batches: their moments.
        dilution: rows of the layer's input to one independent sample.
    """
    mean, var, mean_noise, var_noise = (
        np.mean(column, axis=0) for column in zip(*batches, strict=True)
    )
    safe = np.maximum(var, TINY)
    return {
        "mean": mean,
        "var": var,
        "mean_noise": dilution * mean_noise / safe,
        "var_noise": dilution * var_noise / safe**2,
    }


def eval_facts(
    evaluated: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return moments over all batches, and F (one-way ANOVA) of sample means against batches."""
    if not evaluated:
        return {}
    sizes = np.array([size for size, *_ in evaluated], dtype=np.float64)
    means, within, var = (np.stack(column) for column in list(zip(*evaluated, strict=True))[1:])
    weight = sizes[:, None] / sizes.sum()
    grand = (weight * means).sum(0)
    between = (sizes[:, None] * (means - grand) ** 2).sum(0)
    facts = {"eval_mean": grand, "eval_var": (weight * var).sum(0) + between / sizes.sum()}
    free = sizes.sum() - len(sizes)
    if len(sizes) > 1 and free > 0:
        inside = within.sum(0) / free
        floor = 1e-10 * np.maximum(facts["eval_var"], TINY)
        facts["heterogeneity"] = np.where(
            inside > floor, between / (len(sizes) - 1) / np.maximum(inside, TINY), np.nan
        )
    return facts


def affine_in_effect(layer: Layer, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    """Return gain and offset of each channel that make y of the normalized x, by least squares; {}
    where there are too few rows, or something else happened to them.

    Args:
        layer: a layer or RMS normalization.
        x, y: its input and output, channels last.
    """
    width = int(np.prod(x.shape[x.ndim - max(layer.normalized_dims, 1) :]))
    rows = [v.detach().reshape(-1, width)[:FITTED_ROWS].double() for v in (x, y)]
    if len(rows[0]) < LEAST_ROWS:
        return {}
    normalized, made = rows
    if layer.kind == "layer":
        normalized = normalized - normalized.mean(1, keepdim=True)
    eps = layer.eps or 0.0
    normalized = normalized / (normalized.square().mean(1, keepdim=True) + eps).sqrt()
    centre, middle = normalized.mean(0), made.mean(0)
    energy = (normalized - centre).square().sum(0)
    gain = ((normalized - centre) * (made - middle)).sum(0) / energy.clamp_min(TINY)
    left = (made - middle - gain * (normalized - centre)).square().sum()
    if not (left <= FIT * (made - middle).square().sum() and (energy > 0).all()):
        return {}
    offset = middle - gain * centre
    return {"gain": gain.cpu().numpy(), "offset": offset.cpu().numpy()}
