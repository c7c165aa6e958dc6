"""The facts of a recorded training that rules ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from normscope.errors import InputError
from normscope.judge.layer_measures import aligned
from normscope.judge.rule import FAR_MEAN
from normscope.records.examination import History, LayerHistory
from normscope.records.recording import Recording
from normscope.records.recording_header import LayerInfo

TINY = 1e-12

STREAMED = ("stream", "attention", "token_cosine")
NOISE_FACTOR = 5.0
"""Standard deviations of what chance makes of the running means of two processes."""

LAST_RECORDS = 3
"""The state at the end is the median of so many records."""

STATISTICS = ("running_mean", "running_var", "batch_mean", "batch_var", "values_per_channel",
              "num_batches_tracked", "training", "weight", "weight_gradient", "bias",
              *STREAMED)  # fmt: skip

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # {statistic: (steps [R], values [R, ...])}


def read_history(recording: Any) -> History:
    """Return the facts of a recording, of a watcher that has one, or of a loop's observer.

    Raises:
        InputError: if it is none of them.
    """
    if isinstance(recording, History):
        return recording
    if not isinstance(recording, Recording):
        recording = getattr(recording, "recording", recording)
    if not isinstance(recording, Recording):
        kind = type(recording).__name__
        raise InputError(f"recording must be a normscope.Recording, not a {kind}.")
    return GrowingHistory().update(recording)


class GrowingHistory:
    """The facts of a recording that goes on. Each update reads only what is new."""

    def __init__(self):
        self._layers: dict[str, _Layer] = {}
        self._last = 0  # the last step that was read

    def update(self, recording: Recording) -> History:
        """Return the facts up to now."""
        # Gradients of the last step may have come after its moments; `_Layer` knows what it has.
        new = recording.snapshot(STATISTICS, after=self._last - 1)
        broken: dict[str, int] = {}  # {layer: its first step with NaN or infinity}
        for row in new.non_finite:
            if "gradient" not in str(row["statistic"]):  # those a scaler skips
                broken.setdefault(row["layer"], int(row["step"]))
        read = {name: _read_of(info, new.statistics(name)) for name, info in new.layers.items()}
        infos = {
            name: info
            for name, info in new.layers.items()
            if info.kind != "activation" or read[name] or name in self._layers
        }
        calls = Counter(name.partition("#")[0] for name in infos)
        for name, info in infos.items():
            layer = self._layers.setdefault(name, _Layer())
            layer.add({s: new.query(name, s) for s in read[name]}, info.eps or 1e-5)
            self._last = max(self._last, *layer.last.values(), 0)
            layer.compare_ranks(*_ranks_apart(new, name, info.momentum))
        some_train = any(layer.began_training for layer in self._layers.values())
        layers = tuple(
            layer.history(infos[name], broken.get(name), max(1, calls[name]), some_train)
            for name, layer in self._layers.items()
        )
        return History(layers=layers, steps=max((layer.steps for layer in layers), default=0))


def _read_of(info: LayerInfo, statistics: Iterable[str]) -> list[str]:
    """Return the statistics that rules ask for: of what stands in a normalization's place (dynamic
    tanh) those of the stream beside it.
    """
    return [name for name in statistics if info.kind != "activation" or name in STREAMED]


class _Layer:
    """The facts of one layer so far."""

    def __init__(self):
        self.last: dict[str, int] = {}  # {statistic: the last step that was read}
        self._rank_distance: float | None = None
        self._ranks_apart: dict[str, int] = {}  # {"statistics", "gains": the first step}
        self._first_step: int | None = None
        self._counts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._ends: dict[str, dict[int, np.ndarray]] = {}  # {statistic: {first and last step: it}}
        self._gradient_zero: bool | None = None
        self._lag_steps: list[int] = []
        self._streamed: dict[str, np.ndarray] = {}  # the last records
        self._lag: list[float] = []

    def add(self, read: Series, eps: float) -> None:
        """Add what was recorded since."""
        new: Series = {}
        for name, (steps, values) in read.items():
            later = steps > self.last.get(name, -1)
            if later.any():
                new[name] = steps[later], values[later]
                self.last[name] = int(steps[-1])
        if new and self._first_step is None:
            self._first_step = min(int(steps[0]) for steps, _ in new.values())
        for name in ("num_batches_tracked", "training"):
            if name in new:
                self._counts.setdefault(name, []).append(new[name])
        for name in {"weight", "running_mean"} & set(new):
            steps, values = new[name]
            ends = self._ends.get(name, {})
            first = next(iter(ends.items()), (int(steps[0]), values[0]))
            self._ends[name] = dict([first, (int(steps[-1]), values[-1])])
        if "weight_gradient" in new:
            zero = not np.any(new["weight_gradient"][1])
            self._gradient_zero = zero and self._gradient_zero is not False
        for name in set(STREAMED) & set(new):
            known = [self._streamed[name]] if name in self._streamed else []
            values = np.concatenate([*known, new[name][1].reshape(len(new[name][0]), -1)])
            self._streamed[name] = values[-LAST_RECORDS:]
        steps, lag = _lag(new, eps)
        self._lag_steps += steps
        self._lag += lag

    @property
    def began_training(self) -> bool:
        """Tell whether it was in train mode when it was first recorded."""
        return any(bool(values[0]) for _, values in self._counts.get("training", [])[:1])

    def history(
        self, info: LayerInfo, non_finite: int | None, calls: int, some_train: bool
    ) -> LayerHistory:
        """Return the layer's facts; `some_train` says whether any layer began in train mode."""
        counts = {
            name: (np.concatenate([s for s, _ in read]), np.concatenate([v for _, v in read]))
            for name, read in self._counts.items()
        }
        if "num_batches_tracked" in counts:
            steps, updates = _updates(counts)
        else:
            steps, updates = max(self.last.values(), default=0) - (self._first_step or 0), None
        in_eval, first_in_eval, frozen, drifted = _modes(counts)
        gradients = self._gradient_zero is not None
        if info.momentum == 0:
            updates = None
        if info.momentum == 0 or (info.trainable is False and gradients):
            drifted = None  # nothing moves, or it was thawed on purpose and its weight with it
        moves = self._moved("running_mean") is not False
        return LayerHistory(
            name=info.name,
            kind=info.kind,
            steps=steps,
            updates=updates,
            calls=calls,
            steps_in_eval=in_eval,
            first_in_eval=first_in_eval,
            declared_frozen=frozen and (drifted is not None or some_train),
            drifted_at=drifted,
            first_non_finite=non_finite,
            lag=tuple(self._lag) if moves else (),
            lag_steps=tuple(self._lag_steps) if moves else (),
            weight_moved=self._moved("weight"),
            weight_size=self._size("weight"),
            gradient_zero=self._gradient_zero,
            trainable=info.trainable if info.trainable is not None else gradients or None,
            stream=self._at_end("stream"),
            attention=self._at_end("attention"),
            token_cosine=next(iter(self._at_end("token_cosine")), None),
            rank_distance=self._rank_distance,
            ranks_apart_at=self._ranks_apart.get("statistics"),
            rank_gains_apart_at=self._ranks_apart.get("gains"),
        )

    def compare_ranks(self, distance: float | None, apart: dict[str, int]) -> None:
        """Add how far the processes' running means are apart now, and where they and the copies of
        the gains first parted in what is new.
        """
        self._rank_distance = self._rank_distance if distance is None else distance
        self._ranks_apart = {**apart, **self._ranks_apart}

    def _at_end(self, statistic: str) -> tuple[float, ...]:
        values = self._streamed.get(statistic)
        return () if values is None else tuple(np.median(values, axis=0).astype(float).tolist())

    def _size(self, statistic: str) -> float | None:
        ends = tuple(self._ends.get(statistic, {}).values())
        return float(np.median(np.abs(ends[-1]))) if ends else None

    def _moved(self, statistic: str) -> bool | None:
        ends = tuple(self._ends.get(statistic, {}).values())
        return not np.array_equal(*ends, equal_nan=True) if len(ends) == 2 else None


def with_counts(recorded: History, counted: History) -> History:
    """Return a recording's facts, with what was counted on the host in place of its samples."""
    counts = {layer.name: layer for layer in counted.layers}
    layers = []
    for layer in recorded.layers:
        if count := counts.pop(layer.name, None):
            names = HELD if count.updates is None else (*COUNTED, *HELD)
            known = {name: getattr(count, name) for name in names}
            unknown = {name for name in HELD if known[name] is None}
            layer = replace(layer, **{n: v for n, v in known.items() if n not in unknown})
        layers.append(layer)
    return replace(counted, layers=(*layers, *counts.values()))


COUNTED = (
    "steps", "updates", "calls", "updates_in_backward", "updates_without_grad",
    "first_without_grad", "steps_in_eval", "first_in_eval", "declared_frozen", "drifted_at",
    "samples",
)  # fmt: skip
HELD = (
    "trainable", "parameter_dtype", "optimizer", "scope_optimized", "step_size", "left_in_eval",
    "graded",
)  # fmt: skip


def _updates(read: Series) -> tuple[int, int | None]:
    """(steps between the first and the last record, updates counted in them)."""
    steps, counts = read["num_batches_tracked"]
    if len(steps) < 2:
        return 0, None
    return int(steps[-1] - steps[0]), int(counts[-1] - counts[0])


def _modes(read: Series) -> tuple[int, int | None, bool, int | None]:
    """(steps in eval mode, scaled; the first of them; whether it began so; when it then moved)."""
    steps, training = read.get("training", (np.array([]), np.array([])))
    if len(steps) < 2 or "num_batches_tracked" not in read:
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
    return min(in_eval, total), first, frozen, drifted


def _lag(read: Series, eps: float) -> tuple[list[int], list[float]]:
    """Return the steps in train mode that have both a running and a batch mean, and the 95%
    quantile over the channels of |running mean - batch mean| / sd at each.
    """
    if not {"running_mean", "batch_mean", "batch_var"} <= set(read):
        return [], []
    steps = np.intersect1d(read["running_mean"][0], read["batch_mean"][0])
    if "training" in read:
        evaluated = read["training"][0][~read["training"][1].astype(bool)]
        steps = np.setdiff1d(steps, evaluated)
    if not len(steps):
        return [], []
    running, mean, var = (
        read[name][1][np.searchsorted(read[name][0], steps)].astype(np.float64)
        for name in ("running_mean", "batch_mean", "batch_var")
    )
    z = np.abs(running - mean) / np.sqrt(np.maximum(var, 0) + eps)
    z = z.reshape(len(steps), -1)
    finite = np.isfinite(z).all(1)
    values = np.quantile(z[finite], 0.95, axis=1) if finite.any() else np.array([])
    return steps[finite].tolist(), values.tolist()


def _ranks_apart(
    recording: Recording, name: str, momentum: float | None
) -> tuple[float | None, dict[str, int]]:
    """Compare what all processes that called a layer recorded of it at the same steps.

    Returns:
        The largest distance of a running mean from the first process's at the last step, in
        standard deviations (95% quantile over channels; 0 where chance in batches of their size
        explains it); the first step at which that is more than
        FAR_MEAN ("statistics"), and the first at which weight or bias, where they are copies, are
        not the same bits ("gains").
    """
    apart: dict[str, int] = {}
    distance = None
    ranks = recording.ranks_of(name)
    if len(ranks) < 2 or not recording.in_step:
        return None, apart
    known = set(recording.statistics(name))
    for statistic in {"weight", "bias"} & known:
        copies = recording.copies(name, statistic)
        if len(copies) < 2 or len({values.shape[1:] for _, values in copies}) > 1:
            continue
        steps, one, *others = aligned(copies)
        same = [(one == other) | (np.isnan(one) & np.isnan(other)) for other in others]
        unequal = steps[~np.logical_and.reduce(same).all(1)]
        if len(unequal):
            apart["gains"] = min(int(unequal[0]), apart.get("gains", int(unequal[0])))
    if {"running_mean", "running_var", "values_per_channel"} <= known:
        series = [recording.query(name, "running_mean", rank=rank) for rank in ranks]
        for statistic in ("running_var", "values_per_channel"):
            series.append(recording.query(name, statistic, rank=ranks[0]))
        steps, *means, variance, n = aligned(series)
        if len(steps):
            far = np.abs(np.stack(means[1:]) - means[0]) / np.sqrt(np.maximum(variance, TINY))
            far = np.quantile(far, 0.95, axis=2).max(0)
            memory = 0.0 if momentum is None else momentum / (2 - momentum)
            chance = NOISE_FACTOR * np.sqrt(2 * memory / np.maximum(n, 1))
            far = np.where(far > chance, far, 0.0)
            distance = float(far[-1])
            if (far > FAR_MEAN).any():
                apart["statistics"] = int(steps[np.argmax(far > FAR_MEAN)])
    return distance, apart
