"""C7xx: normalization keeps the inputs of activation functions where these have a gradient."""

from __future__ import annotations

import numpy as np

from normscope.judge.activation_regions import active_region
from normscope.judge.claim import Claim, SecondaryMetric, register
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG
from normscope.judge.evidence.quantities import captured, first_to_last, usual_gradient
from normscope.judge.evidence.wasserstein import cumulative

JUDGED = ("relu", "sigmoid", "tanh")
"""The activation functions that the claim is made of."""


def active_share(cell: GridCell) -> float | None:
    """Share of the inputs of the first stage's last activation in its active region, in percent;
    last capture.
    """
    found = captured(cell, "before_activation")
    activation = cell.run.spec.get("activation", "")
    if found is None or activation not in JUDGED:
        return None
    ((start, end),) = active_region(activation)
    low, high = cumulative(found[-1], np.array([np.nextafter(start, np.inf), min(end, 1e30)]))
    return 100 * float(high - low)


def stem_gradient(cell: GridCell) -> float | None:
    """Median over the epochs of the mean stem-gradient norm."""
    return usual_gradient(cell.run, "stem") if cell.run.status == "finished" else None


@register
class InTheActiveRegion(Claim):
    """A unit outside its active region passes next to no gradient on. The tensor is what enters the
    last activation of the first stage (in a residual block: after the addition), on test images in
    eval mode. A network that learns nothing for want of a slope is left out with the others that
    learn nothing: C201 is where that counts.
    """

    code = "C701"
    name = "inputs-in-the-active-region"
    statement = "Batch normalization keeps the inputs of activation functions in the region where these have a slope."
    source = BLOG
    quantity = "share of activation inputs where the slope is at least a quarter of the largest, in percent"
    needs = "finished runs with {norm} and {reference}, activation relu, sigmoid or tanh, with captured activations"
    unit = "points"
    higher_supports = True
    across = ("activation",)
    margin = 2.0
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        return active_share(cell)


@register
class LargerGradients(Claim):
    """The consequence that the post draws from inputs in the active region. Scales differ between
    the arms for other reasons too: the ratio of first to last layer stands beside it.
    """

    code = "C702"
    name = "larger-gradients"
    statement = "With batch normalization the gradients that arrive at the first layer are larger."
    source = BLOG
    quantity = "median over epochs of the mean stem-gradient norm"
    needs = "finished runs with {norm} and {reference} at equal settings"
    unit = "times"
    higher_supports = True
    across = ("activation",)
    margin = 1.25
    ratio = True
    where_both_learn = True
    also = (
        SecondaryMetric(
            "stem gradient over last-layer gradient", "times", first_to_last, ratio=True
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return stem_gradient(cell)
