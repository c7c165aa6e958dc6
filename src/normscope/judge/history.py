"""What a Recording says of a training, as the facts that rules ask for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from normscope.errors import InputError
from normscope.records.examination import History, LayerHistory
from normscope.records.recording import Recording

TINY = 1e-12


def read_history(recording: Any) -> History:
    """The facts of a recording, of a watcher that has one, or of what a loop's observer has
    counted.

    Raises:
        InputError: if it is none of them.
    """
    if isinstance(recording, History):
        return recording
    if not isinstance(recording, Recording):
        recording = getattr(recording, "recording", recording)
    if not isinstance(recording, Recording):
        raise InputError(
            f"recording must be a normscope.Recording, not a {type(recording).__name__}."
        )
    broken: dict[str, int] = {}
    for row in recording.non_finite:
        if "gradient" not in str(row["statistic"]):  # those a scaler skips
            broken.setdefault(row["layer"], int(row["step"]))
    infos = {name: info for name, info in recording.layers.items() if info.kind != "activation"}
    calls = Counter(name.partition("#")[0] for name in infos)
    layers = tuple(_layer(recording, name, broken.get(name), calls[name]) for name in infos)
    return History(layers=layers, steps=max((layer.steps for layer in layers), default=0))


def with_counts(recorded: History, counted: History) -> History:
    """A recording's facts with what was counted on the host in place of what the recording only
    samples.
    """
    own = {layer.name: layer for layer in counted.layers}
    layers = [_with_counts(layer, own.pop(layer.name, None)) for layer in recorded.layers]
    return replace(counted, layers=(*layers, *own.values()))


COUNTED = ("steps", "updates", "calls", "updates_in_backward", "updates_without_grad", "first_without_grad",
           "steps_in_eval", "first_in_eval", "declared_frozen", "drifted_at", "samples", "trainable")  # fmt: skip


def _with_counts(recorded: LayerHistory, counted: LayerHistory | None) -> LayerHistory:
    if counted is None:
        return recorded
    return replace(recorded, **{name: getattr(counted, name) for name in COUNTED})


def _layer(recording: Recording, name: str, non_finite: int | None, calls: int) -> LayerHistory:
    known = recording.statistics(name)
    read = {s: recording.query(name, s) for s in known if s in WANTED}
    steps, updates = _updates(read)
    in_eval, first_in_eval, frozen, drifted = _modes(read)
    lag_steps, lag = _lag(read, recording.layers[name].eps or 1e-5)
    return LayerHistory(
        name=name,
        kind=recording.layers[name].kind,
        steps=steps,
        updates=updates,
        calls=max(1, calls),
        steps_in_eval=in_eval,
        first_in_eval=first_in_eval,
        declared_frozen=frozen,
        drifted_at=drifted,
        first_non_finite=non_finite,
        lag=lag,
        lag_steps=lag_steps,
        weight_moved=_moved(read),
        gradient_zero=_gradient_zero(read),
        trainable=None if "weight" not in known else "weight_gradient" in known or None,
        rank_distance=_rank_distance(recording, name),
    )


WANTED = ("running_mean", "running_var", "batch_mean", "batch_var", "num_batches_tracked", "training", "weight",
          "weight_gradient")  # fmt: skip

Read = dict[str, tuple[np.ndarray, np.ndarray]]


def _updates(read: Read) -> tuple[int, int | None]:
    """(steps between the first and the last record, updates counted in them)."""
    if "num_batches_tracked" not in read:
        steps = next((axis for axis, _ in read.values()), np.array([]))
        return (int(steps[-1] - steps[0]) if len(steps) > 1 else 0), None
    steps, counts = read["num_batches_tracked"]
    if len(steps) < 2:
        return 0, None
    return int(steps[-1] - steps[0]), int(counts[-1] - counts[0])


def _modes(read: Read) -> tuple[int, int | None, bool, int | None]:
    """(steps in eval mode, scaled from those recorded; the first of them; whether it began so; when
    it then moved).
    """
    if "training" not in read or "num_batches_tracked" not in read:
        return 0, None, False, None
    steps, training = read["training"]
    if len(steps) < 2:
        return 0, None, False, None
    total = int(steps[-1] - steps[0])
    # Records are dense at first and sparse later: each stands for the steps up to the next one.
    evaluating = ~training.astype(bool)
    in_eval = int(np.diff(steps)[evaluating[:-1]].sum())
    first = int(steps[evaluating][0]) if evaluating.any() else None
    frozen = not bool(training[0])
    axis, counts = read["num_batches_tracked"]
    moved = np.flatnonzero(np.diff(counts) > 0)
    drifted = int(axis[moved[0] + 1]) if frozen and len(moved) else None
    return min(in_eval, total), first, frozen and bool(len(moved)), drifted


def _lag(read: Read, eps: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """95% quantile over the channels of |running mean - batch mean| / sd, at every step that has
    both.
    """
    if not {"running_mean", "batch_mean", "batch_var"} <= set(read):
        return (), ()
    common = sorted(set(read["running_mean"][0]) & set(read["batch_mean"][0]))
    at = {name: _rows(read[name], common) for name in ("running_mean", "batch_mean", "batch_var")}
    z = np.abs(at["running_mean"] - at["batch_mean"]) / np.sqrt(
        np.maximum(at["batch_var"], 0) + eps
    )
    finite = np.isfinite(np.atleast_2d(z)).reshape(len(common), -1).all(1)
    values = np.quantile(z[finite], 0.95, axis=1) if finite.any() else np.array([])
    return tuple(
        int(s) for s, keep in zip(common, np.asarray(finite).tolist(), strict=True) if keep
    ), tuple(float(v) for v in values)


def _rows(read: tuple[np.ndarray, np.ndarray], steps: list[int]) -> np.ndarray:
    axis, values = read
    return values[np.searchsorted(axis, steps)].astype(np.float64)


def _moved(read: Read) -> bool | None:
    if "weight" not in read or len(read["weight"][0]) < 2:
        return None
    values = read["weight"][1]
    return not np.array_equal(values[0], values[-1], equal_nan=True)


def _gradient_zero(read: Read) -> bool | None:
    return bool(np.all(read["weight_gradient"][1] == 0)) if "weight_gradient" in read else None


def _rank_distance(recording: Recording, name: str) -> float | None:
    """The largest distance of a rank's last running mean from the first rank's, in standard
    deviations.
    """
    known = recording.statistics(name)
    if len(recording.ranks) < 2 or not {"running_mean", "running_var"} <= set(known):
        return None
    means = [recording.query(name, "running_mean", rank=rank)[1] for rank in recording.ranks]
    var = recording.query(name, "running_var", rank=recording.ranks[0])[1]
    if not all(len(values) for values in (*means, var)):
        return None
    apart = [np.abs(m[-1] - means[0][-1]) / np.sqrt(np.maximum(var[-1], TINY)) for m in means[1:]]
    return float(max(np.quantile(value, 0.95) for value in apart))
