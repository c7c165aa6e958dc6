"""C1xx, C3xx: normalization makes a network learn faster, and its gradients stable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from normscope.judge.claim import Claim, SecondaryMetric
from normscope.judge.comparison import epochs_to_reach, gradient_variation
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import NOTEBOOK
from normscope.judge.evidence.quantities import GRADIENTS_NEED, chance, learned_from
from normscope.judge.statistics import restricted_time, variation_interval
from normscope.records.run import RunRecord

BETWEEN_EPOCHS = 0.25
"""Error of a straight line between two evaluations, in epochs."""


def epochs_to_share(cell: GridCell, share: float) -> float | None:
    """Epochs, linear between them, to a share of the reference arm's mean final accuracy at the
    same setting.

    A run that never gets there, or diverges, counts as all epochs. None where the reference did not
    learn.
    """
    target = reference_accuracy(cell.group)
    if target is None:
        return None
    run = cell.run
    curve = run.column("test_accuracy")
    reached = epochs_to_reach(curve, share * target) if run.status == "finished" else None
    return restricted_time(reached, float(run.spec["epochs"]))


def area_under_curve(cell: GridCell) -> float | None:
    """Mean over the epochs of the test accuracy, in percent; epochs after a divergence count as
    guessing.
    """
    run = cell.run
    curve = run.column("test_accuracy")
    full = np.full(int(run.spec["epochs"]), chance(run))
    full[: len(curve)] = np.where(np.isfinite(curve), curve, chance(run))
    return 100 * float(full.mean())


def reference_accuracy(group: Group) -> float | None:
    """Mean final accuracy of the second arm's finished runs, a fraction; None where it did not
    learn.
    """
    _, reference = group.arms
    runs = [run for cell in group.arms[reference].values() for run in cell.runs]
    finals = [final for run in runs if (final := run.final("test_accuracy")) is not None]
    mean = float(np.mean(finals)) if finals else 0.0
    return mean if finals and mean >= learned_from(runs[0]) else None


class FasterConvergence(Claim, code="C101"):
    """With batch normalization the network needs fewer epochs to become nine tenths as good as
    without.

    Epochs to a threshold say how long one has to wait; a loss is not comparable between networks
    that regularize differently. The threshold is what the network without normalization ends with,
    so that both arms can get there. A run that gets there and diverges later has not got there.

    Quantity: epochs to 90% of the reference arm's mean final test accuracy (never there: all
        epochs)
    Needs: runs with {norm} and {reference} at equal settings, {reference} having learned something
        there
    Contradicted: it takes more epochs to become as good {with_norm}
    """

    source = NOTEBOOK
    unit = "epochs"
    higher_supports = False
    margin = 0.5
    also = (
        SecondaryMetric("epochs to 80%", "epochs", partial(epochs_to_share, share=0.8)),
        SecondaryMetric("epochs to 95%", "epochs", partial(epochs_to_share, share=0.95)),
        SecondaryMetric("mean test accuracy over the epochs", "points", area_under_curve),
    )

    def value(self, cell: GridCell) -> float | None:
        return epochs_to_share(cell, 0.9)

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return BETWEEN_EPOCHS


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
    Contradicted: gradients vary more from step to step {with_norm}
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
    Contradicted: the gradient norm varies more over the epochs {with_norm}
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
