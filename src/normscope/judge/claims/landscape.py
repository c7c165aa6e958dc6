"""C10xx: normalization makes the loss landscape smoother.

Santurkar et al. move by multiples of the gradient, the same for all networks. An arm with larger
gradients then moves further and sees more, whatever the landscape is like; an arm whose loss hardly
moves looks smooth. The claims here are decided at equal distances in units of the weights' own
norm, which is what a scale-invariant layer sees of a move. C1004 to C1006 are what the paper plots.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import MeasuredClaim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import SANTURKAR
from normscope.records.measurements import LANDSCAPE

Column = Callable[[str], np.ndarray]
Points = Callable[[Column, str], np.ndarray]
"""(column of the measurement, kind of distances) -> one value for each point of the training."""


def over_training(cell: GridCell, points: Points, kind: str) -> float | None:
    """Median over the points of the training; infinite where it diverges or most are not finite."""
    measured = cell.run.measured.get(LANDSCAPE)
    if not measured or not len(measured.get("gradient", ())):
        return None
    if len(measured["gradient"]) < max(measured.get("planned", ()), default=0):
        return np.inf  # the training ended before
    moved = measured["gradient"] != 0  # without a gradient there is no direction to look into
    with np.errstate(all="ignore"):
        values = points(measured.__getitem__, kind)[moved]
    return float(np.median(np.where(np.isnan(values), np.inf, values))) if len(values) else None


def loss_range(column: Column, kind: str) -> np.ndarray:
    """Highest minus lowest loss on the line, the point itself included, in nats."""
    losses = np.column_stack([column("loss"), column(f"{kind}_losses")])
    return losses.max(axis=1) - losses.min(axis=1)


def gradient_change(column: Column, kind: str) -> np.ndarray:
    """The largest distance of a gradient on the line from that at the point."""
    return column(f"{kind}_changes").max(axis=1)


def share_of_gradient(column: Column, kind: str) -> np.ndarray:
    """The same as a share of the gradient's norm at the point."""
    return gradient_change(column, kind) / column("gradient")


def beta(column: Column, kind: str) -> np.ndarray:
    """The largest change of the gradient over the distance moved."""
    return (column(f"{kind}_changes") / column(f"{kind}_distances")).max(axis=1)


def relative_beta(column: Column, kind: str) -> np.ndarray:
    """The same for weights of norm 1, in nats: it does not change with the scale of scale-invariant
    weights.
    """
    return beta(column, kind) * column("weights") ** 2


class _Landscape(MeasuredClaim):
    source = SANTURKAR
    needs = (
        "runs of `normscope study landscape` with {norm} and {reference} (measurement landscape)"
    )
    measurement = LANDSCAPE
    of_weights = False  # it trains anew
    unit = "times"
    higher_supports = False
    margin = 1.25
    where_both_learn = True
    points: ClassVar[Points]

    def value(self, cell: GridCell) -> float | None:
        return over_training(cell, type(self).points, "relative")


class LossChangesLessAlongTheGradient(_Landscape, code="C1001"):
    """With batch normalization the loss varies less along the direction of its gradient.

    How much the loss varies along the gradient's direction, up to 3% of the weights' norm, on one
    batch in train mode (statistics of the batch), at the start of a training and at 12 points on
    its way. In nats in both arms. A network on a plateau has next to nothing to vary: where an arm
    does not learn, nothing is judged.

    Quantity: range of the loss along the negative gradient up to 0.03 weight norms, median over
        points of training
    Contradicted: the loss varies more along its gradient {with_norm}
    """

    points = staticmethod(loss_range)


class GradientsMorePredictive(_Landscape, code="C1002"):
    """With batch normalization the gradient changes less along its own direction.

    Gradient predictiveness. The paper plots the distance itself, which is smaller for a smaller
    gradient; how far a gradient can be trusted is the share of it that changes on the way, and that
    decides.

    Quantity: largest change of the gradient along its negative up to 0.03 weight norms, as a share
        of its norm, median over points of training
    Contradicted: the gradient changes more along its own direction {with_norm}
    """

    points = staticmethod(share_of_gradient)
    also = (
        SecondaryMetric(
            "steps of 0.5 to 4 learning rates",
            "times",
            partial(over_training, points=share_of_gradient, kind="rate"),
        ),
    )


class EffectivelySmoother(_Landscape, code="C1003"):
    """With batch normalization the landscape is effectively smoother along the gradient.

    Effective beta-smoothness is a change of the gradient over a distance, hence per square of the
    weights' scale: weights before batch normalization that are twice as large have a quarter of it,
    and the same network. Times the squared norm of the weights it is the same for both, and that
    decides.

    Quantity: largest change of the gradient over the distance moved, along its negative up to 0.03
        weight norms, times the squared weight norm, median over points of training
    Contradicted: the landscape is rougher along the gradient {with_norm}
    """

    points = staticmethod(relative_beta)


class _AsInThePaper(_Landscape):
    """At the steps that the paper takes: an arm with larger gradients moves further."""

    def value(self, cell: GridCell) -> float | None:
        return over_training(cell, type(self).points, "rate")


class LossChangesLessPerStep(_AsInThePaper, code="C1004"):
    """With batch normalization the loss varies less over steps of the training's size.

    The paper's own reading of C1001: multiples of the gradient, the same for both arms, without
    regard to the sizes of gradients and weights.

    Quantity: range of the loss over steps of 0.5 to 4 learning rates along the negative gradient,
        median over points of training
    Contradicted: the loss varies more over steps of the training's size {with_norm}
    """

    points = staticmethod(loss_range)


class GradientsChangeLessPerStep(_AsInThePaper, code="C1005"):
    """With batch normalization gradients change less over steps of the training's size.

    The paper's own reading of C1002: the l2 distance itself, which is smaller for a smaller
    gradient.

    Quantity: largest l2 change of the gradient over steps of 0.5 to 4 learning rates, median over
        points of training
    Contradicted: gradients change more over steps of the training's size {with_norm}
    """

    points = staticmethod(gradient_change)


class SmootherPerStep(_AsInThePaper, code="C1006"):
    """With batch normalization the landscape is effectively smoother over steps of the training's
    size.

    The paper's own reading of C1003: the change of the gradient over the distance, without regard
    to the scale of the weights.

    Quantity: largest change of the gradient over the distance moved, in steps of 0.5 to 4 learning
        rates, median over points of training
    Contradicted: the landscape is rougher over steps of the training's size {with_norm}
    """

    points = staticmethod(beta)
