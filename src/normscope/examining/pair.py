"""Two models, or two checkpoints, that should agree, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.errors import one_line
from normscope.examining.layer_facts import switch_mode
from normscope.examining.outputs import main_output
from normscope.records.examination import ROUNDING, Layer, Pair, PairedLayer
from normscope.user_models.batch_reader import Batch
from normscope.user_models.tensor_files import is_dense

PAIR_BATCHES = 4


def pair_layers(here: tuple[Layer, ...], there: tuple[Layer, ...]) -> dict[str, Any]:
    """Compare two lists of layers: shared layers by name, and those that only one has."""
    others = {layer.name: layer for layer in there}
    names = {layer.name for layer in here}
    return {
        "layers": tuple(_pair(layer, others[layer.name]) for layer in here if layer.name in others),
        "only_here": tuple(layer.name for layer in here if layer.name not in others),
        "only_there": tuple(layer.name for layer in there if layer.name not in names),
    }


def weight_distance(
    here: Mapping[str, Tensor], there: Mapping[str, Tensor], skip: set[str]
) -> float | None:
    """Relative L2 distance of the tensors that two states share by name and shape, but `skip`."""
    square, scale, shared = 0.0, 0.0, 0
    for name, tensor in here.items():
        other = there.get(name)
        if other is None or not (is_dense(tensor) and is_dense(other)):
            continue
        if other.shape != tensor.shape:
            continue
        if not tensor.is_floating_point() or name.rpartition(".")[0] in skip:
            continue
        shared += 1
        reference = other.detach().double().cpu()
        square += float((tensor.detach().double().cpu() - reference).square().sum())
        scale += float(reference.square().sum())
    return math.sqrt(square / max(scale, 1e-30)) if shared else None


@torch.no_grad()
def compare_outputs(
    model: nn.Module, other: Callable[..., Any], batches: list[Batch]
) -> dict[str, Any]:
    """Relative difference of two models' eval outputs; call it inside `preserve_state` of both."""
    for each in (model, other):
        if isinstance(each, nn.Module):
            switch_mode(each, training=False)
    square, scale = 0.0, 0.0
    try:
        for batch in batches[:PAIR_BATCHES]:
            outputs = [main_output(batch.forward(each), batch.samples) for each in (model, other)]
            if outputs[0] is None or outputs[1] is None or outputs[0].shape != outputs[1].shape:
                return {"output_failure": "their outputs have different shapes"}
            square += float((outputs[0] - outputs[1]).double().square().sum())
            scale += float(outputs[0].double().square().sum())
    except Exception as error:  # the other model is the user's: its errors are reported
        return {"output_failure": one_line(error)}
    difference = math.sqrt(square / max(scale, 1e-30))
    return {
        "output_difference": difference,
        "other_companions_difference": _companions_difference(other, batches[0]),
    }


def _companions_difference(other: Callable[..., Any], batch: Batch) -> float | None:
    """Return how the first sample's output changes when it comes alone; None where it cannot."""
    if batch.samples < 2:
        return None
    try:
        whole = main_output(batch.forward(other), batch.samples)
        alone = main_output(batch.take(slice(0, 1)).forward(other), 1)
    except Exception:  # for example an exported program that takes one batch size only
        return None
    if whole is None or alone is None or whole.shape[1] != alone.shape[1]:
        return None
    return float((whole[:1] - alone).norm() / whole[:1].norm().clamp_min(1e-30))


def make_pair(facts: dict[str, Any]) -> Pair:
    """Return the record, with what is not finite left out."""
    unknown = {k for k, v in facts.items() if isinstance(v, float) and not math.isfinite(v)}
    return Pair(**{name: value for name, value in facts.items() if name not in unknown})


def _pair(here: Layer, there: Layer) -> PairedLayer:
    return PairedLayer(
        name=here.name,
        type="" if here.eps is None else here.type,  # exported modules hold values only
        other_type="" if there.eps is None else there.type,
        statistics_equal=_all_equal(
            (here.running_mean, there.running_mean), (here.running_var, there.running_var)
        ),
        affine_equal=_all_equal((here.weight, there.weight), (here.bias, there.bias)),
        **_distances(here, there),
        **_gain_facts(here, there),
        at_initialization=here.at_initialization,
        other_at_initialization=there.at_initialization,
        updates=here.updates,
        other_updates=there.updates,
        eps=here.eps,
        other_eps=there.eps,
    )


def _gain_facts(here: Layer, there: Layer) -> dict[str, Any]:
    """Return how weight and bias are apart, and whether those of one of the two are new ones."""
    facts: dict[str, Any] = {
        "gains_new": _are_new(here) and not _are_new(there),
        "other_gains_new": _are_new(there) and not _are_new(here),
    }
    pairs = ((here.weight, there.weight), (here.bias, there.bias))
    shared = [(a, b) for a, b in pairs if a is not None and b is not None and a.shape == b.shape]
    if shared:
        apart = math.sqrt(sum(float(np.square(a - b).sum()) for a, b in shared))
        size = math.sqrt(sum(float(np.square(b).sum()) for _, b in shared))
        distance = apart / max(size, 1e-30)
        facts["gains_distance"] = distance if math.isfinite(distance) else None
    if here.weight is not None and there.weight is not None:
        sizes = len(here.weight), len(there.weight)
        facts["gain_sizes"] = sizes if sizes[0] != sizes[1] else None
    return {**facts, "gain_offset": _gain_offset(here, there)}


def _are_new(layer: Layer) -> bool:
    """Tell whether weight and bias are those of a new layer: each of one value, 0 or 1."""
    values = [v for v in (layer.weight, layer.bias) if v is not None and len(v) > 1]
    return bool(values) and all(v[0] in (0.0, 1.0) and np.all(v == v[0]) for v in values)


def _gain_offset(here: Layer, there: Layer) -> float | None:
    """Return 1 or -1 where the other's weight is this one's with that added, up to rounding."""
    a, b = here.weight, there.weight
    if a is None or b is None or a.shape != b.shape or not len(a):
        return None
    coarsest = max(ROUNDING.get(layer.parameter_dtype, 0.0) for layer in (here, there))
    limit = 2 * coarsest * float(max(np.abs(a).max(), np.abs(b).max(), 1.0))
    offsets = (o for o in (1.0, -1.0) if float(np.abs(b - a - o).max()) <= limit)
    return next(offsets, None)


def _all_equal(*pairs: tuple[np.ndarray | None, np.ndarray | None]) -> bool | None:
    present = [(a, b) for a, b in pairs if a is not None and b is not None]
    return (
        all(a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in present)
        if present
        else None
    )


def _distances(here: Layer, there: Layer) -> dict[str, float | None]:
    """Return 95% quantiles over the channels of how far the means are apart, in the other's
    standard deviations, and the log variances.
    """
    if not (here.tracked and there.tracked) or here.running_mean.shape != there.running_mean.shape:  # type: ignore[union-attr]
        return {}
    var, other_var = (np.maximum(layer.running_var, 1e-12) for layer in (here, there))  # type: ignore[type-var]
    mean = np.abs(here.running_mean - there.running_mean) / np.sqrt(other_var + (there.eps or 0))  # type: ignore[operator]
    distances = {"mean_distance": mean, "var_distance": np.abs(np.log(var / other_var))}
    values = {name: float(np.quantile(value, 0.95)) for name, value in distances.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
