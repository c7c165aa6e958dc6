"""Distributions of a network's activations: histograms, moments and quantiles of named tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.records.histogram import LEVELS, LIMIT, Histogram, capture_edges

BINS = 80


@contextmanager
def tapped(taps: Mapping[str, tuple[nn.Module, str]]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds, after every forward, the tapped tensors: {name: the module's "input"
    or "output"}.

    A module that is called several times in one forward gives its last call. The hooks come off at
    the end.
    """
    tensors: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...], *output: Tensor) -> None:
        # a copy: an in-place activation would overwrite it
        tensors[name] = (output or args)[0].detach().clone()

    with ExitStack() as hooks:
        for name, (module, side) in taps.items():
            before, after = module.register_forward_pre_hook, module.register_forward_hook
            register: Callable[..., Any] = before if side == "input" else after
            hooks.enter_context(register(functools.partial(keep, name)))
        yield tensors


@torch.no_grad()
def capture(
    forward: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    taps: Mapping[str, tuple[nn.Module, str]],
) -> dict[str, Histogram]:
    """Return {name: histogram} of the tapped tensors over all batches.

    The caller decides the mode of the network.
    """
    collected: dict[str, list[np.ndarray]] = {name: [] for name in taps}
    with tapped(taps) as tensors:
        for batch in images:
            forward(batch)
            for name, tensor in tensors.items():
                collected[name].append(tensor.float().flatten().cpu().numpy())
            tensors.clear()
    return {name: describe(np.concatenate(parts)) for name, parts in collected.items() if parts}


def describe(values: np.ndarray) -> Histogram:
    """Return the distribution of float32 values [n]; those that are not finite are only counted."""
    finite = values[np.isfinite(values)]
    inside = finite[(finite >= -LIMIT) & (finite <= LIMIT)]
    counts, _ = np.histogram(inside, bins=BINS, range=(-LIMIT, LIMIT))
    under, over = np.count_nonzero(finite < -LIMIT), np.count_nonzero(finite > LIMIT)
    mean = std = zeros = np.nan
    quantiles = np.full(len(LEVELS), np.nan)
    if len(finite):
        mean, std = finite.mean(dtype=np.float64), finite.std(dtype=np.float64)
        zeros, quantiles = np.mean(finite == 0), np.quantile(finite, LEVELS).astype(np.float64)
    return Histogram(
        edges=capture_edges(BINS),
        counts=np.concatenate([[under], counts, [over]]).astype(np.int64),
        non_finite=len(values) - len(finite),
        mean=float(mean),
        std=float(std),
        zeros=float(zeros),
        quantiles=quantiles,
    )
