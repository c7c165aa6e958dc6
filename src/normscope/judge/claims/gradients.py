"""C3xx: normalization makes gradients stable and keeps them from vanishing on their way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.comparison import gradient_variation
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import NOTEBOOK
from normscope.judge.evidence.quantities import GRADIENTS_NEED, first_to_last
from normscope.judge.statistics import variation_interval
from normscope.records.run import RunRecord


class _Variation(Claim):
    source = NOTEBOOK
    needs = GRADIENTS_NEED
    unit = "times"
    higher_supports = False
    margin = 1.1
    where_both_learn = True


class StableGradients(_Variation, code="C301"):
    """With batch normalization the gradient of the first layer varies less from step to step.

    Over the steps of one epoch the learning rate is constant and the weights hardly move: what
    varies there is the gradient's noise. As a coefficient of variation it does not depend on the
    gradient's scale, which normalization changes.

    Quantity: coefficient of variation of the stem-gradient norm over the steps of an epoch, mean
        over epochs
    """

    def value(self, cell: GridCell) -> float | None:
        means = cell.run.column("stem_gradient_mean")
        positive = means > 0
        if cell.run.status != "finished" or not positive.any():
            return None
        stds = cell.run.column("stem_gradient_std")
        return float(np.mean(stds[positive] / means[positive]))


class SteadyGradientsOverEpochs(_Variation, code="C302"):
    """With batch normalization the gradient norm stays about the same throughout training.

    The notebook looks at the norm after the last step of each epoch. Over epochs the learning rate
    falls and the loss with it, so that a network that learns well varies more: this reading mixes
    noise and trend.

    Quantity: coefficient of variation over epochs of the stem-gradient norm after each epoch's last
        step
    """

    def value(self, cell: GridCell) -> float | None:
        return gradient_variation(cell.run) if cell.run.status == "finished" else None

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """One run's own interval, for who has but one."""
        notes = []
        for arm in (arm for group in groups for arm in group.arms.values()):
            cell = next((cell for cell in arm.values() if self.value(cell)), None)
            interval = cell and variation_interval(cell.run.column("stem_gradient"))
            if cell and interval:
                notes.append(
                    f"{cell.arm} seed {cell.seed}{cell.group.where}: {interval[0]:.2f} to "
                    f"{interval[1]:.2f} (95% interval of this run alone, its epochs taken for "
                    "independent and normal)."
                )
        return tuple(notes)


VANISHED = 1e-3
"""A step has next to no gradient if its norm is below this share of the mean over its epoch."""


class GradientsDoNotVanish(Claim, code="C303"):
    """Without normalization there are steps at which the first layer's gradient vanishes; with it,
    fewer.

    Some step reaches the first layer with next to nothing. Measured against the mean of its own
    epoch: gradients that grow smaller from epoch to epoch are those of a network that has learned
    its images. Gradients that are small on the way to the first layer at every step are C304's. A
    network that died of it has not learned: that counts in C201, and not here, where it cannot be
    told from one that died of its learning rate.

    Quantity: epochs with a step whose stem-gradient norm is below a thousandth of the epoch's mean,
        in percent
    """

    source = NOTEBOOK
    needs = GRADIENTS_NEED
    unit = "points"
    higher_supports = False
    margin = 10.0
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        run = cell.run
        means, least = run.column("stem_gradient_mean"), run.column("stem_gradient_min")
        finite = np.isfinite(means) & np.isfinite(least)
        if run.status != "finished" or not finite.any():
            return None
        return 100 * float(np.mean(least[finite] <= VANISHED * means[finite]))

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return 100 / min((run.spec["epochs"] for run in runs), default=1)


class GradientsReachTheFirstLayer(Claim, code="C304"):
    """With batch normalization more of the gradient reaches the first layer.

    What is left of the gradient on its way back through the network. As a ratio within a network it
    does not depend on the scale of the loss. It is at the mercy of how wide the two layers are,
    which is the same in both arms.

    Quantity: stem-gradient norm over that of the last layer, each the median over epochs of its
        mean
    """

    source = NOTEBOOK
    needs = GRADIENTS_NEED
    unit = "times"
    higher_supports = True
    margin = 1.25
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        return first_to_last(cell) if cell.run.status == "finished" else None
