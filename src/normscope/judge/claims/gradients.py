"""C3xx: normalization makes gradients stable."""

from __future__ import annotations

import numpy as np

from normscope.judge.claims.base import Claim, Companion
from normscope.judge.claims.cells import Cell
from normscope.judge.claims.sources import NOTEBOOK
from normscope.judge.comparison import gradient_variation
from normscope.records.run import RunRecord

FLOOR = 1e-12
"""Gradients below this share of the usual one count as this: an exact zero has no logarithm."""

NEEDS = "finished runs with {norm} and {reference} at equal settings, several epochs each"


def variation_over_steps(cell: Cell) -> float | None:
    """Coefficient of variation of the stem-gradient norm over the steps of an epoch, the mean of all epochs."""
    run = cell.run
    means = run.column("stem_gradient_mean")
    known = means > 0
    if run.status != "finished" or not known.any():
        return None
    return float(np.mean(run.column("stem_gradient_std")[known] / means[known]))


def variation_over_epochs(cell: Cell) -> float | None:
    """Coefficient of variation over epochs of the norm after each epoch's last step: what the notebook plots."""
    return gradient_variation(cell.run) if cell.run.status == "finished" else None


def weakest_step(cell: Cell) -> float | None:
    """The smallest stem-gradient norm of all steps as a share of the median over epochs of the mean norm."""
    run = cell.run
    usual, least = _median(run, "stem_gradient_mean"), run.column("stem_gradient_min")
    if run.status != "finished" or usual is None or np.isnan(least).all():
        return None
    return max(float(np.nanmin(least)) / usual, FLOOR)


def first_to_last(cell: Cell) -> float | None:
    """Stem gradient over classifier gradient, medians over epochs."""
    stem, last = (_median(cell.run, f"{name}_gradient_mean") for name in ("stem", "last_layer"))
    return stem / last if stem is not None and last is not None else None


def _median(run: RunRecord, column: str) -> float | None:
    values = run.column(column)
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.median(positive)) if len(positive) else None


class StableGradients(Claim):
    """Over the steps of one epoch the learning rate is constant and the weights hardly move: what varies there is the
    gradient's noise. As a coefficient of variation it does not depend on the gradient's scale, which normalization
    changes. A network that does not learn has stable gradients too: read this beside C201.
    """

    code = "C301"
    name = "stable-gradients"
    statement = "With batch normalization the gradient of the first layer varies less from step to step."
    source = NOTEBOOK
    quantity = "coefficient of variation of the stem-gradient norm over the steps of an epoch, mean over epochs"
    needs = NEEDS
    unit = "times"
    higher_supports = False
    margin = 1.1
    ratio = True
    also = (Companion("stem gradient over last-layer gradient", "times", first_to_last, ratio=True),)

    def value(self, cell: Cell) -> float | None:
        return variation_over_steps(cell)


class SteadyGradients(Claim):
    """The notebook looks at the norm after the last step of each epoch. Over epochs the learning rate falls and the
    loss with it, so that a network that learns well varies more: this reading mixes noise and trend.
    """

    code = "C302"
    name = "steady-gradients-over-epochs"
    statement = "With batch normalization the gradient norm stays about the same throughout training."
    source = NOTEBOOK
    quantity = "coefficient of variation over epochs of the stem-gradient norm after each epoch's last step"
    needs = NEEDS
    unit = "times"
    higher_supports = False
    margin = 1.1
    ratio = True

    def value(self, cell: Cell) -> float | None:
        return variation_over_epochs(cell)


class GradientsDoNotVanish(Claim):
    """Vanishing means that some steps reach the first layer with next to nothing, whatever the usual size is."""

    code = "C303"
    name = "gradients-do-not-vanish"
    statement = "Without normalization the first layer's gradient can vanish; with it, it does not."
    source = NOTEBOOK
    quantity = "smallest stem-gradient norm of all steps over the median norm"
    needs = NEEDS
    unit = "times"
    higher_supports = True
    margin = 1.5
    ratio = True

    def value(self, cell: Cell) -> float | None:
        return weakest_step(cell)
