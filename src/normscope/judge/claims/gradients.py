"""C301 and C302: normalization makes gradients stable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.comparison import gradient_variation
from normscope.judge.evidence.cells import Cell, Group
from normscope.judge.evidence.quantities import GRADIENTS_NEED
from normscope.judge.evidence.sources import NOTEBOOK
from normscope.judge.statistics import variation_interval


def variation_over_steps(cell: Cell) -> float | None:
    """Coefficient of variation of the stem-gradient norm over the steps of an epoch, the mean of
    all epochs.
    """
    run = cell.run
    means = run.column("stem_gradient_mean")
    known = means > 0
    if run.status != "finished" or not known.any():
        return None
    return float(np.mean(run.column("stem_gradient_std")[known] / means[known]))


def variation_over_epochs(cell: Cell) -> float | None:
    """Coefficient of variation over epochs of the norm after each epoch's last step: what the
    notebook plots.
    """
    return gradient_variation(cell.run) if cell.run.status == "finished" else None


class _Variation(Claim):
    source = NOTEBOOK
    needs = GRADIENTS_NEED
    unit = "times"
    higher_supports = False
    margin = 1.1
    ratio = True
    where_both_learn = True


class StableGradients(_Variation):
    """Over the steps of one epoch the learning rate is constant and the weights hardly move: what
    varies there is the gradient's noise. As a coefficient of variation it does not depend on the
    gradient's scale, which normalization changes.
    """

    code = "C301"
    name = "stable-gradients"
    statement = (
        "With batch normalization the gradient of the first layer varies less from step to step."
    )
    quantity = "coefficient of variation of the stem-gradient norm over the steps of an epoch, mean over epochs"

    def value(self, cell: Cell) -> float | None:
        return variation_over_steps(cell)


class SteadyGradients(_Variation):
    """The notebook looks at the norm after the last step of each epoch. Over epochs the learning
    rate falls and the loss with it, so that a network that learns well varies more: this reading
    mixes noise and trend.
    """

    code = "C302"
    name = "steady-gradients-over-epochs"
    statement = (
        "With batch normalization the gradient norm stays about the same throughout training."
    )
    quantity = "coefficient of variation over epochs of the stem-gradient norm after each epoch's last step"

    def value(self, cell: Cell) -> float | None:
        return variation_over_epochs(cell)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """One run's own interval, for who has but one."""
        known = (
            [cell for cell in arm.values() if self.value(cell)]
            for group in groups
            for arm in group.arms.values()
        )
        cells = [cells[0] for cells in known if cells]
        found = [(cell, variation_interval(cell.run.column("stem_gradient"))) for cell in cells]
        return tuple(
            f"{cell.arm} seed {cell.seed}{cell.group.where}: {interval[0]:.2f} to "
            f"{interval[1]:.2f} (95% interval of this run alone, its epochs taken for independent and normal)."
            for cell, interval in found
            if interval is not None
        )
