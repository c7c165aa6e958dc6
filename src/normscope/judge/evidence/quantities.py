"""Quantities that several claims read from the records of a cell's runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from normscope.judge.evidence.cells import GridCell, knobs_of
from normscope.records.histogram import Histogram
from normscope.records.measurement_names import EVALUATION
from normscope.records.run import RunRecord

LEARNED = 0.2
"""An arm has learned something if its accuracy is this share of the way from guessing to 1, or
more.
"""

SMALL = 8
"""Batches of up to this many images are small."""

GRADIENTS_NEED = "finished runs with {norm} and {reference} at equal settings, several epochs each"
"""What claims about gradients need."""


def chance(run: RunRecord) -> float:
    """The accuracy of guessing."""
    classes = run.spec.get("classes") or run.meta.get("data", {}).get("classes") or range(10)
    return 1 / len(classes)


def learned_from(run: RunRecord) -> float:
    """The accuracy from which on a network like this has learned something, a fraction."""
    return chance(run) + LEARNED * (1 - chance(run))


def accuracy(run: RunRecord) -> float | None:
    """Test accuracy after the last epoch, in percent; of a diverged run that of guessing, for it
    says nothing more.

    Leaving diverged runs out would judge an arm by its survivors.
    """
    if run.status == "diverged":
        return 100 * chance(run)
    final = run.final("test_accuracy")
    return None if final is None else 100 * final


def training_accuracy(run: RunRecord) -> float | None:
    """Accuracy on the training images in the last epoch, while it trained, in percent; of a
    diverged run guessing.
    """
    if run.status == "diverged":
        return 100 * chance(run)
    final = run.final("train_accuracy")
    return None if final is None else 100 * final


def has_learned(cells: Iterable[GridCell]) -> bool:
    """Whether the mean accuracy of the runs is well above that of guessing; True where it is not
    known.
    """
    runs = [run for cell in cells for run in cell.runs]
    known = [value for run in runs if (value := accuracy(run)) is not None]
    return not known or float(np.mean(known)) >= 100 * learned_from(runs[0])


def accuracy_step(runs: Iterable[RunRecord]) -> float:
    """The accuracy of one test image in percent, of the smallest test set; 0 where it is not
    recorded.
    """
    sizes = [size for run in runs if (size := run.meta.get("data", {}).get("test_images"))]
    return 100 / min(sizes) if sizes else 0.0


def accuracies(cells: Iterable[GridCell], over: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Mean accuracy over the cells for each value of their knobs, without values at which one is
    not known.
    """
    found: dict[tuple[Any, ...], list[float | None]] = {}
    for cell in cells:
        for run in cell.runs:
            found.setdefault(knobs_of(run, over), []).append(accuracy(run))
    return {
        knobs: float(np.mean([value for value in values if value is not None]))
        for knobs, values in found.items()
        if None not in values
    }


def accuracy_at_the_choice_of_others(cell: GridCell, over: Sequence[str]) -> float | None:
    """A seed's accuracy at the knobs that were best for the other seeds of its arm: its own result
    chose nothing.
    """
    means = accuracies(cell.others(), over)
    own = {knobs_of(run, over): accuracy(run) for run in cell.runs}
    if not means:
        return None
    return own.get(max(means, key=lambda knobs: means[knobs]))


def captured(cell: GridCell, tensor: str, least: int = 1) -> list[Histogram] | None:
    """The distributions of a tensor in order of epochs; None for fewer than `least`, or any that is
    not finite.
    """
    found = [seen for (name, _), seen in sorted(cell.run.captures.items()) if name == tensor]
    finite = all(np.isfinite(seen.quantiles).all() and seen.n for seen in found)
    return found if len(found) >= least and finite and cell.run.status == "finished" else None


def usual_gradient(run: RunRecord, layer: str) -> float | None:
    """Median over the epochs of the mean gradient norm of the "stem" or the "last_layer"; None if
    all are zero.
    """
    values = run.column(f"{layer}_gradient_mean")
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.median(positive)) if len(positive) else None


def first_to_last(cell: GridCell) -> float | None:
    """Stem gradient over classifier gradient, medians over epochs."""
    stem, last = (usual_gradient(cell.run, layer) for layer in ("stem", "last_layer"))
    return stem / last if stem is not None and last is not None else None


def median_over_channels(
    run: RunRecord, measurement: str, statistic: str, *, from_place: int = 0
) -> float | None:
    """Median over the channels, from a place on, of what was measured per channel; None where it
    was not.
    """
    found = run.measured.get(measurement, {})
    values, place = found.get(statistic, np.array([])), found.get("place", np.array([]))
    if values.shape != place.shape:
        return None
    kept = values[(place >= from_place) & np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else None


def evaluated(run: RunRecord, statistics: str, batch_size: int = 0) -> float | None:
    """MeasuredClaim test accuracy with statistics of this kind, those of the batch in batches of a size,
    in percent.
    """
    found = run.measured.get(EVALUATION, {})
    values = found.get(statistics, np.array([]))
    if statistics == "batch":
        sizes = found.get("size", np.array([]))
        values = values[sizes == batch_size] if values.shape == sizes.shape else np.array([])
    return 100 * float(values[0]) if len(values) and np.isfinite(values[0]) else None


def evaluation_step(runs: Sequence[RunRecord]) -> float:
    """The least difference of such accuracies, in percent: they are over 1,000 test images at most."""
    return max(accuracy_step(runs), 0.1)
