"""Distributions of a network's activations on a few batches: histograms, moments and quantiles of named tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from normscope.records.captures import LEVELS, LIMIT, capture_edges
from normscope.records.histogram import Histogram

BINS = 80


@contextmanager
def tapped(taps: Mapping[str, tuple[nn.Module, str]]):
    """Yields a dict that holds, after every forward, the tapped tensors: {name: the module's
    "input" or "output"}.

    A module that is called several times in one forward gives its last call. The hooks come off at
    the end.
    """
    seen: dict[str, Tensor] = {}

    def input_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].detach().clone()  # an in-place activation would overwrite it

        return hook

    def output_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output.detach().clone()

        return hook

    handles = []
    try:
        for name, (module, side) in taps.items():
            if side == "input":
                handles.append(module.register_forward_pre_hook(input_hook(name)))
            else:
                handles.append(module.register_forward_hook(output_hook(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(
    forward: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    taps: Mapping[str, tuple[nn.Module, str]],
) -> dict[str, Histogram]:
    """{name: histogram} of the tapped tensors over all batches. The caller decides the mode of
    the network.
    """
    collected: dict[str, list[np.ndarray]] = {name: [] for name in taps}
    with tapped(taps) as seen:
        for batch in images:
            forward(batch)
            for name, tensor in seen.items():
                collected[name].append(tensor.float().flatten().cpu().numpy())
            seen.clear()
    return {name: describe(np.concatenate(parts)) for name, parts in collected.items() if parts}


def describe(values: np.ndarray) -> Histogram:
    """The distribution of float32 values [n]. Values that are not finite are counted and left out
    of the rest.
    """
    finite = values[np.isfinite(values)]
    inside = finite[(finite >= -LIMIT) & (finite <= LIMIT)]
    counts, _ = np.histogram(inside, bins=BINS, range=(-LIMIT, LIMIT))
    under, over = np.count_nonzero(finite < -LIMIT), np.count_nonzero(finite > LIMIT)
    empty = len(finite) == 0
    return Histogram(
        edges=capture_edges(BINS),
        counts=np.concatenate([[under], counts, [over]]).astype(np.int64),
        non_finite=len(values) - len(finite),
        mean=float("nan") if empty else float(finite.mean(dtype=np.float64)),
        std=float("nan") if empty else float(finite.std(dtype=np.float64)),
        zeros=float("nan") if empty else float(np.mean(finite == 0)),
        quantiles=np.full(len(LEVELS), np.nan)
        if empty
        else np.quantile(finite, LEVELS).astype(np.float64),
    )
