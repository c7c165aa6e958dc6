"""C305, C405: what normalization does to deep networks before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim_kinds import BeforeTraining
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import DANESHMAND, YANG
from normscope.judge.evidence.quantities import positive_values
from normscope.records.measurements import INITIALIZATION


class GradientsExplodeWithDepth(BeforeTraining, code="C305"):
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
        gradient = positive_values(cell.run, INITIALIZATION, "gradient")
        if gradient is None:
            return None
        slope = np.polyfit(np.arange(len(gradient)), np.log(gradient), 1)[0]
        return float(np.exp(-slope))

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return ("Theory: 1.211 with batch normalization, 1 without.",)


class KeepsTheRank(BeforeTraining, code="C405"):
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
        rank = positive_values(cell.run, INITIALIZATION, "rank")
        return None if rank is None else float(rank[-1])
