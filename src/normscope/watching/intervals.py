"""What is recorded at which step: intervals, and the records among those due that fit into a
budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from normscope.errors import InputError, shown
from normscope.records.recording_header import (
    BINS,
    FRAME,
    HISTOGRAM_CHANNELS,
    SAMPLE_LEVELS,
    SAMPLE_MOMENTS,
    VALUE_MOMENTS,
    LayerInfo,
)

Interval = int | Callable[[int], bool] | None

BUDGET = 20.0  # MB per STEPS steps
STEPS = 10_000

SHARES = {"moments": 0.4, "gradients": 0.1, "histograms": 0.5}
RECORDS = {"moments": 100, "histograms": 40}
"""How many records of a kind a budget should pay for at least. Where all channels would be fewer
records, as many evenly spaced channels of each layer are recorded as pay for these.
"""
FEWEST_CHANNELS = 8
WRITE_BYTES, STEPS_PER_WRITE = 1_400, 250
"""What a write adds to the file per layer, beside the values: names, shapes, an index."""

MOST = 1e12  # MB
EARLY, EARLY_DOUBLINGS = 0.3, 10
"""The share of the budget that is there for the first 1,000 steps besides, when most happens."""


@dataclass(frozen=True)
class LogSpacedInterval:
    """Every step at first, then ever more rarely, until every `interval` steps.

    The distance between two records doubles whenever the step does, so that early training, where
    most happens, has `first` to `2 * first` records, and as many for each doubling after it.
    """

    interval: int
    first: int

    def __call__(self, step: int) -> bool:
        """Tell whether this step, counted from 1, is recorded."""
        doublings = max(0, (step // self.first).bit_length() - 1)
        return (step - 1) % min(self.interval, 1 << doublings) == 0


class Due(NamedTuple):
    """What one step records."""

    moments: bool
    gradients: bool
    histograms: bool


@dataclass(frozen=True)
class Intervals:
    """The three intervals of a watcher: a number n (steps 1, n + 1, 2n + 1, ...), a function of the
    step, or None.

    Raises:
        InputError: for anything else, or a function that does not take step 1.
    """

    moments: Interval
    gradients: Interval
    histograms: Interval

    def __post_init__(self):
        for parameter, interval in (
            ("every", self.moments),
            ("gradients_every", self.gradients),
            ("histograms_every", self.histograms),
        ):
            _check(parameter, interval)

    def due(self, step: int) -> Due:
        """Return what this step, counted from 1, records."""
        return Due(*(_due(interval, step) for interval in vars(self).values()))

    def described(self) -> dict[str, str]:
        """Return the intervals in words, for the record."""
        return {name: _words(interval) for name, interval in vars(self).items()}


def _check(parameter: str, interval: Interval) -> None:
    if callable(interval):
        try:
            interval(1)
        except Exception as error:
            message = f"{parameter}= is a function that fails at step 1: {error!r}."
            raise InputError(message) from error
    elif interval is not None and (type(interval) is not int or interval < 1):
        raise InputError(
            f"{parameter}={shown(interval)} is no interval: give a number of steps from 1, a "
            "function of the step, or None."
        )


def _due(interval: Interval, step: int) -> bool:
    if interval is None:
        return False
    return bool(interval(step)) if callable(interval) else (step - 1) % interval == 0


def _words(interval: Interval) -> str:
    if isinstance(interval, int):
        return f"every {interval} steps"
    if interval is None:
        return "never"
    if isinstance(interval, LogSpacedInterval):  # its name in older recordings, so that they resume
        return f"Gradually(interval={interval.interval}, first={interval.first})"
    return getattr(interval, "__name__", repr(interval))


def check_budget(budget: float | None) -> None:
    """Check a budget.

    Raises:
        InputError: if it is neither a positive number nor None.
    """
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if budget is not None and not (number and 0 < budget <= MOST):
        raise InputError(
            f"budget={shown(budget)} is no size: give MB per {STEPS:,} steps, or None to record "
            "all that is due."
        )


def allowance(budget: float, step: int, layers: int) -> float:
    """Return the bytes of values that a recording may have after a step, counted from 1."""
    early = min(1.0, math.log2(1 + step) / EARLY_DOUBLINGS)
    whole = budget * 1e6 * (EARLY * early + (1 - EARLY) * step / STEPS)
    return max(whole / 2, whole - WRITE_BYTES * layers * step / STEPS_PER_WRITE)


def spread_channels(layers: Sequence[LayerInfo], budget: float | None) -> None:
    """Set the layers' strides and numbers of channels with histograms to what a budget pays for."""
    if budget is None:
        return
    widest = max((info.channels or HISTOGRAM_CHANNELS for info in layers), default=1)
    for kind, records in RECORDS.items():
        share = SHARES[kind] * budget * 1e6 / records
        most = widest if kind == "moments" else min(widest, HISTOGRAM_CHANNELS)
        _limit(layers, kind, most)
        while most > FEWEST_CHANNELS and record_bytes(layers)[kind] > share:
            most = max(FEWEST_CHANNELS, most * 7 // 8)
            _limit(layers, kind, most)


def _limit(layers: Sequence[LayerInfo], kind: str, most: int) -> None:
    for info in layers:
        if kind == "moments":
            info.channel_stride = -(-(info.channels or 1) // most)
        else:
            info.histogram_limit = HISTOGRAM_CHANNELS if most >= (info.channels or 0) else most


def record_bytes(layers: Sequence[LayerInfo]) -> dict[str, int]:
    """Return the bytes of a record of each kind of all layers, without the file's own overhead."""
    total = dict.fromkeys(SHARES, 0)
    for info in layers:
        channels = info.channels or HISTOGRAM_CHANNELS
        recorded = -(-channels // info.channel_stride)
        parameters = 8 * recorded if info.affine and info.call == 1 else 0
        buffers = 8 * recorded if info.tracks and info.call == 1 else 0
        per_sample = info.kind in ("group", "instance", "layer", "rms")
        groups = {"group": info.groups or 1, "instance": channels}.get(info.kind, 1)
        sides = 2 if per_sample else 1
        total["gradients"] += parameters
        total["moments"] += parameters + buffers
        total["moments"] += 8 * recorded if info.kind == "batch" else 0
        total["moments"] += 8 * len(SAMPLE_MOMENTS) * groups if per_sample else 0
        histogram = 2 * (BINS + 2) + 4 * len(FRAME) + 4 * len(VALUE_MOMENTS)
        total["histograms"] += sides * histogram * min(channels, info.histogram_limit)
        total["histograms"] += 8 * recorded if info.kind != "batch" else 0
        total["histograms"] += 8 * len(SAMPLE_LEVELS) * groups if per_sample else 0
    return total


class Planned:
    """The records that are due and fit into a budget.

    What is left out follows from the step, the intervals and the layers alone: a recording that is
    resumed leaves out the same.

    Args:
        intervals: when a record is due.
        layers: the watched layers with their further calls, as they are known by now.
        budget: MB per STEPS steps, or None for all that is due.
    """

    def __init__(
        self, intervals: Intervals, layers: Callable[[], Sequence[LayerInfo]], budget: float | None
    ):
        self.left_out: dict[str, int] = {}
        self._intervals, self._layers, self._budget = intervals, layers, budget
        self._spent = dict.fromkeys(SHARES, 0)
        self._step = 0
        self._due = Due(False, False, False)

    @property
    def spaced(self) -> bool:
        """Tell if moments are due ever more rarely, so that a few less make no difference."""
        return isinstance(self._intervals.moments, LogSpacedInterval)

    def due(self, step: int) -> Due:
        """Return what this step, counted from 1, records. Ask for steps in their order."""
        while self._step < step:
            self._step += 1
            wanted = self._intervals.due(self._step)
            self._due = self._affordable(wanted) if any(wanted) else wanted
        return self._due

    def _affordable(self, wanted: Due) -> Due:
        if self._budget is None:
            return wanted
        layers, taken = self._layers(), {}
        sizes, whole = record_bytes(layers), allowance(self._budget, self._step, len(layers))
        for kind, due in wanted._asdict().items():
            room = SHARES[kind] * whole - self._spent[kind]
            taken[kind] = due and (sizes[kind] <= room or self._step == 1)
            self._spent[kind] += sizes[kind] if taken[kind] else 0
            if due and not taken[kind]:
                self.left_out[kind] = self.left_out.get(kind, 0) + 1
        return Due(**taken)
