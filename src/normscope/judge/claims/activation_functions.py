"""C7xx: normalization keeps the inputs of activation functions where these have a gradient."""

from __future__ import annotations

import numpy as np

from normscope.judge.activation_regions import active_region
from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG
from normscope.judge.evidence.quantities import captured
from normscope.judge.evidence.wasserstein import cumulative

JUDGED = ("relu", "sigmoid", "tanh")
"""The activation functions that the claim is made of."""


class InputsInTheActiveRegion(Claim, code="C701"):
    """Batch normalization keeps the inputs of activation functions in the region where these have a
    slope.

    A unit outside its active region passes next to no gradient on. The tensor is what enters the
    last activation of the first stage (in a residual block: after the addition), on test images in
    eval mode. A network that learns nothing for want of a slope is left out with the others that
    learn nothing: C201 is where that counts.

    Quantity: share of activation inputs where the slope is at least a quarter of the largest, in
        percent
    Needs: finished runs with {norm} and {reference}, activation relu, sigmoid or tanh, with
        captured activations
    """

    source = BLOG
    networks = "convolutional"
    unit = "points"
    higher_supports = True
    across = ("activation",)
    margin = 2.0
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        captures = captured(cell, "before_activation")
        activation = cell.run.spec.get("activation", "")
        if captures is None or activation not in JUDGED:
            return None
        ((start, end),) = active_region(activation)
        ends = np.array([np.nextafter(start, np.inf), min(end, 1e30)])
        low, high = cumulative(captures[-1], ends)
        return 100 * float(high - low)
