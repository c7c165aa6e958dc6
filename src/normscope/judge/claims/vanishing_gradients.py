"""C303 and C304: without normalization gradients vanish on their way to the first layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import Cell
from normscope.judge.evidence.quantities import GRADIENTS_NEED, first_to_last
from normscope.judge.evidence.sources import NOTEBOOK
from normscope.records.run import RunRecord

VANISHED = 1e-3
"""A step has next to no gradient if its norm is below this share of the mean over its epoch."""


def vanishing(cell: Cell) -> float | None:
    """Share of the epochs that have a step with next to no stem gradient, in percent; an epoch of
    zeros is one.
    """
    run = cell.run
    means, least = run.column("stem_gradient_mean"), run.column("stem_gradient_min")
    known = np.isfinite(means) & np.isfinite(least)
    if run.status != "finished" or not known.any():
        return None
    return 100 * float(np.mean(least[known] <= VANISHED * means[known]))


class GradientsDoNotVanish(Claim):
    """Some step reaches the first layer with next to nothing. Measured against the mean of its own
    epoch: gradients that grow smaller from epoch to epoch are those of a network that has learned
    its images. Gradients that are small on the way to the first layer at every step are C304's. A
    network that died of it has not learned: that counts in C201, and not here, where it cannot be
    told from one that died of its learning rate.
    """

    code = "C303"
    name = "gradients-do-not-vanish"
    statement = "Without normalization there are steps at which the first layer's gradient vanishes; with it, fewer."
    source = NOTEBOOK
    quantity = "epochs with a step whose stem-gradient norm is below a thousandth of the epoch's mean, in percent"
    needs = GRADIENTS_NEED
    unit = "points"
    higher_supports = False
    margin = 10.0
    where_both_learn = True

    def value(self, cell: Cell) -> float | None:
        return vanishing(cell)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return 100 / min((run.spec["epochs"] for run in runs), default=1)


class GradientsArrive(Claim):
    """What is left of the gradient on its way back through the network. As a ratio within a network
    it does not depend on the scale of the loss. It is at the mercy of how wide the two layers are,
    which is the same in both arms.
    """

    code = "C304"
    name = "gradients-reach-the-first-layer"
    statement = "With batch normalization more of the gradient reaches the first layer."
    source = NOTEBOOK
    quantity = (
        "stem-gradient norm over that of the last layer, each the median over epochs of its mean"
    )
    needs = GRADIENTS_NEED
    unit = "times"
    higher_supports = True
    margin = 1.25
    ratio = True
    where_both_learn = True

    def value(self, cell: Cell) -> float | None:
        return first_to_last(cell) if cell.run.status == "finished" else None
