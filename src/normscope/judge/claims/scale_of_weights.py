"""C15xx: weights before a normalization have no scale, and what follows for their learning rate."""

from __future__ import annotations

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.claim_kinds import BeforeTraining, MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import GridCell, knobs_of
from normscope.judge.evidence.literature import ARORA, LI_ARORA, VAN_LAARHOVEN
from normscope.judge.evidence.quantities import (
    accuracies,
    accuracy,
    exponent,
    learned_from,
    positive_values,
)
from normscope.records.measurements import DECAY, INITIALIZATION, WEIGHTS


class WeightsWithoutScale(BeforeTraining, code="C1501"):
    """With batch normalization behind it a convolution does not see the scale of its weights: their
    gradient is orthogonal to them.

    An identity where the layer's eps is nothing beside the variance, and where each convolution has
    its own normalization; measured in the network as it is trained, in float32.

    Quantity: |cosine| of a convolution's weights and their gradient before the first step, median
        over convolutions
    Contradicted: the gradient of weights is less orthogonal to them {with_norm}
    """

    source = VAN_LAARHOVEN
    higher_supports = False
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        cosine = positive_values(cell.run, INITIALIZATION, "cosine")
        return None if cosine is None else float(np.median(cosine))


class WeightsGrow(MeasuredClaim, code="C1502"):
    """With batch normalization weights grow more during training, so that the same learning rate
    moves them less and less.

    A step orthogonal to the weights can only lengthen them, and what moves a scale-invariant weight
    is the rate over its squared norm: the effective rate falls by itself. Weight decay works
    against it.

    Quantity: norm of a convolution's weights after the training over that before it, geometric mean
        over convolutions
    Needs: finished runs of `normscope study` with {norm} and {reference} (measurement weights)
    Contradicted: weights grow less {with_norm}
    """

    source = ARORA
    measurement = WEIGHTS
    unit = "times"
    higher_supports = True
    margin = 1.1
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        growth = positive_values(cell.run, WEIGHTS, "growth")
        return None if growth is None else float(np.exp(np.log(growth).mean()))


class TunesItsOwnRate(Claim, code="C1503"):
    """With batch normalization the effective learning rate depends less on the one that is set.

    What moves a weight without scale is the rate over its squared norm. A larger rate lengthens
    such weights more, and so takes back a part of itself; nothing ties the weights of a network
    without normalization to the rate. An exponent of 1 is a rate that is what it was set to. At the
    rates at which both arms learn on average, without runs that do not, from the norms after the
    last epoch.

    Quantity: exponent of the learning rate in the rate over the squared norm of a convolution's
        weights (geometric mean) at the end
    Needs: finished runs with {norm} and {reference} at two learning rates or more at which both
        learn, made since records hold the norms of weights
    Contradicted: the effective rate follows the one that is set more closely {with_norm}
    """

    source = ARORA
    networks = "convolutional"
    unit = "in the exponent"
    higher_supports = False
    margin = 0.1
    over = ("learning_rate",)
    least = 2

    def value(self, cell: GridCell) -> float | None:
        least = 100 * learned_from(cell.run)
        means = [accuracies(cells.values(), self.over) for cells in cell.group.arms.values()]
        found = [
            (run.learning_rate, norm)
            for run in cell.runs
            if (norm := run.final("convolution_norm"))
            and (accuracy(run) or 0) >= least
            and all(mean.get(knobs_of(run, self.over), 0) >= least for mean in means)
        ]
        growth = exponent(*np.transpose(found)) if len(found) > 1 else None
        return None if growth is None else 1 - 2 * growth


RISING, CONSTANT = "a rising rate", "a constant rate"


class DecayActsThroughTheRate(MeasuredClaim, WithinRunClaim, code="C1504"):
    """With batch normalization weight decay does what a rising learning rate does without it.

    Where weights have no scale, decay cannot make the function simpler: with it they take the very
    directions that they take without it at a rate that rises by (1 - rate x decay)^-2 a step, in
    plain SGD. Forty steps in float64, decay on the convolutions alone, and rate x decay = 0.01, so
    that the rate comes to more than twice its first. The rising rate explains what decay does by as
    much as it comes nearer to it than a constant one, which explains nothing of it. What is left is
    eps, grown from step to step: beside the small variances of PyTorch's first weights it is not
    nothing. The effect is the share that is left, 1 where the rising rate explains nothing.

    Quantity: distance of a convolution's direction, without decay, from that with it, median over
        convolutions
    Needs: runs of `normscope study` with {norm} (measurement decay)
    Contradicted: a rising learning rate is no substitute for weight decay {with_norm}
    """

    source = LI_ARORA
    measurement = DECAY
    of_weights = False
    between = (RISING, CONSTANT)
    unit = "times"
    higher_supports = False
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        name = "unexplained" if cell.arm == RISING else "moved"
        distances = positive_values(cell.run, DECAY, name)
        return None if distances is None else float(np.median(distances))
