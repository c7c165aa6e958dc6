"""The facts of a data loader or a state_dict on its own, without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from normscope.errors import InputError, one_line
from normscope.examining.layer_facts import dtype_name, find_modules, to_array, to_count
from normscope.examining.outputs import label_facts
from normscope.records.examination import Keys, Layer, Loader, Recognition
from normscope.records.recording_header import MOST_LAYERS
from normscope.user_models.state_dicts import NormEntries, norm_entries, without_prefixes
from normscope.user_models.state_guard import refuse_lazy
from normscope.user_models.tensor_files import is_dense

MOST_VALUES = 1 << 24
"""Of the normalization layers of a state_dict: the largest language models have 5 million."""

MAX_LABELS = 100_000
MAX_LABEL_BATCHES = 64


def describe_loader(loader: Any) -> Loader:
    """Return the facts of a loader, without drawing a batch from it.

    Labels are read where the dataset holds them as a list.

    Raises:
        InputError: if it is no loader: it has neither a batch size nor a sampler.
    """
    sampler = getattr(loader, "batch_sampler", None) or getattr(loader, "sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    if size is None and sampler is None:
        raise InputError(
            f"loader must be a DataLoader or have a batch_size, not be a {type(loader).__name__}."
        )
    inner = getattr(loader, "sampler", sampler)
    dataset = getattr(loader, "dataset", None)
    shuffles = None
    if isinstance(inner, SequentialSampler | RandomSampler):
        shuffles = isinstance(inner, RandomSampler)
    drop_last = getattr(loader, "drop_last", None)
    if isinstance(loader, DataLoader) and loader.batch_size is None:
        drop_last = getattr(sampler, "drop_last", None)
    return Loader(
        type=type(loader).__name__,
        batch_size=int(size) if size is not None else None,
        samples=_length(inner if inner is not None else dataset),
        drop_last=drop_last,
        sampler=type(inner).__name__ if inner is not None else "",
        shuffles=shuffles,
        **_order_facts(_labels(dataset), int(size) if size else None, shuffles),
    )


def layers_of_state(state: Mapping[str, Any], known: tuple[Layer, ...] = ()) -> tuple[Layer, ...]:
    """Return the normalization layers that a state_dict holds, as its names and shapes show them.

    Of those without running statistics only the values are known: no sizes, no class. `known` are
    the layers of the model that it is for, whose names need not tell.

    Raises:
        InputError: for a layer whose values are of different widths, or no dense tensors.
    """
    found = norm_entries(state)
    for layer in known:
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        held = {name: state.get(f"{layer.name}.{name}" if layer.name else name) for name in names}
        values = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        if values:
            found.setdefault(layer.name, NormEntries(layer.kind, "model", values))
    _refuse_excess(found)
    return tuple(_layer(name, entries) for name, entries in found.items())


def _refuse_excess(found: Mapping[str, NormEntries]) -> None:
    """Refuse values that are not there, and more of them, or of layers, than there can be."""
    if len(found) > MOST_LAYERS:
        raise InputError(
            f"It holds {len(found):,} normalization layers; at most {MOST_LAYERS:,} are judged."
        )
    for name, entries in found.items():
        for entry, value in entries.values.items():
            if not is_dense(value):
                raise InputError(
                    f"{name}.{entry} holds no dense values ({value.dtype}, {value.layout})."
                )
    values = sum(value.numel() for entries in found.values() for value in entries.values.values())
    if values > MOST_VALUES:
        raise InputError(
            f"Its normalization layers hold {values:,} values; at most {MOST_VALUES:,} are judged."
        )


def compare_keys(state: Mapping[str, Any], model: nn.Module) -> Keys:
    """Compare names and shapes of a state_dict with those of a model's state."""
    refuse_lazy(model)
    wanted = model.state_dict()
    plain = without_prefixes(state, wanted)
    present = {key: value for key, value in plain.items() if isinstance(value, Tensor)}
    return Keys(
        norms=tuple(find_modules(model)),
        prefix=lost_prefix(state, plain),
        missing=tuple(key for key in wanted if key not in present),
        unexpected=tuple(key for key in present if key not in wanted),
        wrong_shape=tuple(
            key
            for key, value in present.items()
            if key in wanted and value.shape != wanted[key].shape
        ),
    )


def lost_prefix(state: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Return what `without_prefixes` took from before every name, "" for nothing."""
    first, bare = next(iter(state), ""), next(iter(plain), "")
    return str(first).removesuffix(bare) if str(first).endswith(bare) else ""


def _layer(name: str, entries: NormEntries) -> Layer:
    values = entries.values
    widths = {entry: value.numel() for entry, value in values.items() if value.numel() != 1}
    if len(set(widths.values())) > 1 and entries.kind == "batch":
        sizes = ", ".join(f"{entry} {width}" for entry, width in widths.items())
        raise InputError(f"The values of layer {name!r} are of different widths: {sizes}.")
    mean, weight = values.get("running_mean"), values.get("weight")
    statistics = entries.kind == "batch"
    return Layer(
        name=name,
        type="",
        kind=entries.kind,
        foreign=not statistics,
        features=0 if mean is None else mean.numel(),
        **_numbers(name, values),
        parameter_dtype=dtype_name(weight),
        statistics_dtype=dtype_name(mean),
        affine_names=tuple(key for key in ("weight", "bias") if key in values),
        live=statistics,
        recognition=Recognition(by=entries.recognized_by),
    )


def _numbers(name: str, values: Mapping[str, Tensor]) -> dict[str, Any]:
    arrays = ("weight", "bias", "running_mean", "running_var")
    try:
        numbers: dict[str, Any] = {entry: to_array(values.get(entry)) for entry in arrays}
        return numbers | {"updates": to_count(values.get("num_batches_tracked"))}
    except (RuntimeError, ValueError, OverflowError) as error:
        # a type that cannot be computed with
        raise InputError(
            f"The values of layer {name!r} cannot be read: {one_line(error)}."
        ) from error


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _labels(dataset: Any) -> np.ndarray | None:
    """Integer labels [N] that a dataset has ready: `targets`, `labels`, or its last tensor."""
    name = "targets" if hasattr(dataset, "targets") else "labels"
    values = getattr(dataset, name, None)
    if values is None and isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        values = dataset.tensors[-1]
    if values is None:
        return None
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        labels = np.asarray(values)
    except ValueError:  # ragged
        return None
    usable = labels.ndim == 1 and labels.dtype.kind in "iub" and 1 < len(labels) <= MAX_LABELS
    return labels if usable else None


def _order_facts(
    labels: np.ndarray | None, batch_size: int | None, shuffles: bool | None
) -> dict[str, float]:
    """Return how the labels lie in the order of a loader that does not shuffle."""
    if labels is None or shuffles or batch_size is None:
        return {}
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    runs = 1 + int(np.count_nonzero(np.diff(labels)))
    shuffled_runs = 1 + (len(labels) - 1) * (1 - float((shares**2).sum()))
    facts = {"label_runs": shuffled_runs / runs}
    if len(labels) >= 2 * batch_size > 2:
        spread = label_facts(_spread_out(labels, batch_size)).get("labels_in_batches", math.nan)
        if math.isfinite(spread):
            facts["labels_in_batches"] = spread
    return facts


def _spread_out(labels: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return batches from all over an epoch: those at its beginning may hold a single class."""
    starts = np.arange(0, len(labels) - batch_size + 1, batch_size)
    count = min(len(starts), MAX_LABEL_BATCHES)
    picked = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    return [labels[start : start + batch_size] for start in np.unique(picked)]
