"""C305, C405, C15xx: what normalization does to deep networks and weights before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim_kinds import MeasuredClaim
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import ARORA, DANESHMAND, VAN_LAARHOVEN, YANG
from normscope.records.measurements import INITIALIZATION, WEIGHTS

NEEDS = "runs of `normscope study` with {norm} and {reference} (measurement initialization)"


class _AtInitialization(MeasuredClaim):
    measurement = INITIALIZATION
    of_weights = False
    needs = NEEDS
    unit = "times"


def _measured(cell: GridCell, measurement: str, name: str) -> np.ndarray | None:
    values = cell.run.measured.get(measurement, {}).get(name)
    if values is None or not len(values) or not np.isfinite(values).all():
        return None
    return values if (values > 0).all() else None


class GradientsExplodeWithDepth(_AtInitialization, code="C305"):
    """Before any training, batch normalization makes gradients grow exponentially on their way back
    through a deep network.

    Against the belief that it keeps them from exploding. Theory gives, for ReLU, wide layers and
    large batches, a factor of sqrt(pi / (pi - 1)) = 1.21 for every layer, and 1 without
    normalization. In a network of 40 fully connected layers of 256 units, without shortcuts, which
    the theory is about; residual networks are spared (C1201). At the layers' outputs: the gradient
    of a weight before a normalization depends on the weight's scale.

    Quantity: factor by which the gradient's norm grows for each layer on its way back
    """

    source = YANG
    higher_supports = True
    margin = 1.02

    def value(self, cell: GridCell) -> float | None:
        gradient = _measured(cell, INITIALIZATION, "gradient")
        if gradient is None:
            return None
        slope = np.polyfit(np.arange(len(gradient)), np.log(gradient), 1)[0]
        return float(np.exp(-slope))

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return ("Theory: 1.211 with batch normalization, 1 without.",)


class KeepsTheRank(_AtInitialization, code="C405"):
    """Before any training, batch normalization keeps hidden vectors from becoming parallel in a
    deep network.

    Without normalization the hidden vectors of different images come nearer to one direction from
    layer to layer, until the network cannot tell images apart: the rank collapses. The
    participation ratio counts the directions that they have, 1 where all are parallel. In the same
    network as C305.

    Quantity: participation ratio of the hidden vectors of 128 images behind 40 layers
    """

    source = DANESHMAND
    higher_supports = True
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        rank = _measured(cell, INITIALIZATION, "rank")
        return None if rank is None else float(rank[-1])


class WeightsWithoutScale(_AtInitialization, code="C1501"):
    """With batch normalization behind it a convolution does not see the scale of its weights: their
    gradient is orthogonal to them.

    An identity where the layer's eps is nothing beside the variance, and where each convolution has
    its own normalization; measured in the network as it is trained, in float32.

    Quantity: |cosine| of a convolution's weights and their gradient before the first step, median
        over convolutions
    """

    source = VAN_LAARHOVEN
    higher_supports = False
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        cosine = _measured(cell, INITIALIZATION, "cosine")
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
    """

    source = ARORA
    measurement = WEIGHTS
    unit = "times"
    higher_supports = True
    margin = 1.1
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        growth = _measured(cell, WEIGHTS, "growth")
        return None if growth is None else float(np.exp(np.log(growth).mean()))
