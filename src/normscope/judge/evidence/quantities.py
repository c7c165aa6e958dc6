"""Quantities that several claims read from the records of a cell's runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from normscope.judge.evidence.cells import GridCell, knobs_of
from normscope.records.histogram import Histogram
from normscope.records.measurements import EVALUATION
from normscope.records.run import RunRecord

LEARNED = 0.2
"""Of the way from guessing to 1: an arm with this accuracy or more has learned something."""

SMALL = 8
"""Batches of up to this many images are small."""

GRADIENTS_NEED = "finished runs with {norm} and {reference} at equal settings, several epochs each"
"""The needs of claims about gradients."""


def chance(run: RunRecord) -> float:
    """Return the accuracy of guessing."""
    classes = run.spec.get("classes") or run.meta.get("data", {}).get("classes") or range(10)
    return 1 / len(classes)


def learned_from(run: RunRecord) -> float:
    """Return the accuracy from which on such a network has learned something, a fraction."""
    return chance(run) + LEARNED * (1 - chance(run))


def accuracy(run: RunRecord, column: str = "test_accuracy") -> float | None:
    """Return an accuracy of the last epoch in percent; of a diverged run that of guessing.

    Leaving diverged runs out would judge an arm by its survivors.
    """
    if run.status == "diverged":
        return 100 * chance(run)
    final = run.final(column)
    return None if final is None else 100 * final


def has_learned(cells: Iterable[GridCell]) -> bool:
    """Tell whether the mean accuracy of the runs is well above guessing, of cells over knobs at the
    value where it is highest; True where it is not known.
    """
    means = []
    for runs in itertools.zip_longest(*(cell.runs for cell in cells)):
        known = [value for run in runs if run and (value := accuracy(run)) is not None]
        if known:
            means.append(float(np.mean(known)) - 100 * learned_from(runs[0] or runs[-1]))
    return not means or max(means) >= 0


def accuracy_step(runs: Iterable[RunRecord], images: str = "test_images") -> float:
    """Return the accuracy of one image of the smallest data set, in percent; 0 if not recorded."""
    sizes = [size for run in runs if (size := run.meta.get("data", {}).get(images))]
    return 100 / min(sizes) if sizes else 0.0


def accuracies(cells: Iterable[GridCell], over: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Mean accuracy over the cells for each value of their knobs, without values at which one is
    not known.
    """
    by_knobs: dict[tuple[Any, ...], list[float | None]] = {}
    for run in (run for cell in cells for run in cell.runs):
        by_knobs.setdefault(knobs_of(run, over), []).append(accuracy(run))
    return {
        knobs: float(np.mean([value for value in values if value is not None]))
        for knobs, values in by_knobs.items()
        if None not in values
    }


def accuracy_at_the_arms_best(cell: GridCell, over: Sequence[str]) -> float | None:
    """A seed's accuracy at the knobs that are best for its arm on average."""
    means = accuracies(cell.group.arms[cell.arm].values(), over)
    accuracy_at = {knobs_of(run, over): accuracy(run) for run in cell.runs}
    return accuracy_at.get(max(means, key=lambda knobs: means[knobs])) if means else None


def captured(cell: GridCell, tensor: str, least: int = 1) -> list[Histogram] | None:
    """Return the distributions of a tensor by epoch; None for fewer than `least`, or any that is
    not finite.
    """
    captures = [
        capture for (name, _), capture in sorted(cell.run.captures.items()) if name == tensor
    ]
    usable = all(np.isfinite(capture.quantiles).all() and capture.n for capture in captures)
    finished = cell.run.status == "finished"
    return captures if len(captures) >= least and usable and finished else None


def median_over_channels(
    run: RunRecord, measurement: str, statistic: str, *, from_layer: int = 0
) -> float | None:
    """Median over the channels, from the layer of an index on, of what was measured per channel;
    None where it was not.
    """
    measured = run.measured.get(measurement, {})
    values, layers = measured.get(statistic, np.array([])), measured.get("place", np.array([]))
    if values.shape != layers.shape:
        return None
    kept = values[(layers >= from_layer) & np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else None


def evaluated(run: RunRecord, statistics: str, batch_size: int = 0) -> float | None:
    """Return the measured test accuracy with statistics of this kind, in percent; with those of the
    batch in batches of a size.
    """
    measured = run.measured.get(EVALUATION, {})
    values = measured.get(statistics, np.array([]))
    if statistics == "batch":
        sizes = measured.get("size", np.array([]))
        values = values[sizes == batch_size] if values.shape == sizes.shape else np.array([])
    return 100 * float(values[0]) if len(values) and np.isfinite(values[0]) else None


def largest_evaluated(run: RunRecord) -> int:
    """Return the largest batch size at which the accuracy without eval() was measured; 0: none."""
    return int(max(run.measured.get(EVALUATION, {}).get("size", ()), default=0))


def evaluation_step(runs: Sequence[RunRecord]) -> float:
    """Return the least difference of such accuracies, in percent: of 1,000 images at most."""
    return max(accuracy_step(runs), 0.1)


def measured_values(run: RunRecord, measurement: str, name: str) -> np.ndarray | None:
    """Return a measured array, None where there is none or a value is not finite and positive."""
    values = run.measured.get(measurement, {}).get(name)
    if values is None or not len(values) or not np.isfinite(values).all():
        return None
    return values if (values >= 0).all() else None


def positive_values(run: RunRecord, measurement: str, name: str) -> np.ndarray | None:
    """Return a measured array; None where there is none or a value is not above 0."""
    values = measured_values(run, measurement, name)
    return values if values is not None and (values > 0).all() else None


def exponent(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the slope of log y against log x, by least squares; None where y has a zero."""
    if len(x) != len(y) or len(x) < 2 or not (y > 0).all():
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def guessing_loss(run: RunRecord) -> float:
    """Return the cross-entropy of guessing, in nats."""
    return -math.log(chance(run))


def held_out_loss(run: RunRecord, *, best: bool = False) -> float | None:
    """Return the loss on held-out data in nats, after the last epoch or at its lowest; that of
    guessing where it is higher or the run diverged, as a run that failed is no worse by failing
    more.
    """
    guess = guessing_loss(run)
    if run.status == "diverged":
        return guess
    losses = run.column("test_loss")
    if run.status != "finished" or not len(losses):
        return None
    last = float(np.nanmin(losses) if best and np.isfinite(losses).any() else losses[-1])
    return min(last, guess) if math.isfinite(last) else None


def mean_losses(cells: Iterable[GridCell], over: tuple[str, ...]) -> dict[tuple, float]:
    """Return {values of the knobs: mean held-out loss over the cells}."""
    found: dict[tuple, list[float]] = {}
    for cell in cells:
        for run in cell.runs:
            if (loss := held_out_loss(run)) is not None:
                found.setdefault(knobs_of(run, over), []).append(loss)
    return {knobs: float(np.mean(losses)) for knobs, losses in found.items()}
