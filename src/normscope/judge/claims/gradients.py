"""C3xx: normalization makes gradients stable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.comparison import gradient_variation
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import NOTEBOOK
from normscope.judge.evidence.quantities import GRADIENTS_NEED
from normscope.judge.statistics import variation_interval


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
