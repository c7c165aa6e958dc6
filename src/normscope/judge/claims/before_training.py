"""C305, C405, C12xx: what normalization does to deep networks before any training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from normscope.judge.claim import Claim, SecondaryMetric
from normscope.judge.claim_kinds import BeforeTraining
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import DANESHMAND, DE_SMITH, YANG
from normscope.judge.evidence.quantities import positive_values
from normscope.records.measurements import INITIALIZATION, PROPAGATION


class GradientsExplodeWithDepth(BeforeTraining, code="C305"):
    """Before any training, batch normalization makes gradients grow exponentially on their way back
    through a deep network.

    Against the belief that it keeps them from exploding. Theory gives, for ReLU, wide layers and
    large batches, a factor of sqrt(pi / (pi - 1)) = 1.21 for every layer, and 1 without
    normalization. In a network of 40 fully connected layers of 256 units, without shortcuts, which
    the theory is about; residual networks are spared (C1201). At the layers' outputs: the gradient
    of a weight before a normalization depends on the weight's scale.

    Quantity: factor by which the gradient's norm grows for each layer on its way back
    Contradicted: gradients do not grow on their way back {with_norm}
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
    Contradicted: hidden vectors become parallel sooner {with_norm}
    """

    source = DANESHMAND
    higher_supports = True
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        rank = positive_values(cell.run, INITIALIZATION, "rank")
        return None if rank is None else float(rank[-1])


def paths(cell: GridCell) -> tuple[np.ndarray, np.ndarray] | None:
    """Variances of skip and branch by block, float64 [blocks] each; None where they were not
    measured or not finite.
    """
    measured = cell.run.measured.get(PROPAGATION, {})
    skip, branch = measured.get("skip", np.array([])), measured.get("branch", np.array([]))
    usable = (
        len(skip) > 0 and skip.shape == branch.shape and (skip > 0).all() and (branch > 0).all()
    )
    return (skip, branch) if usable and np.isfinite([skip, branch]).all() else None


def last(cell: GridCell, path: int) -> float | None:
    """Variance of the skip path into the last block (path 0), or of its branch (path 1)."""
    variances = paths(cell)
    return None if variances is None else float(variances[path][-1])


def _variances(where: str, by_seed: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    skip, branch = np.mean(by_seed, axis=0)
    return (
        f"{where}: variance of the skip path {skip[0]:.3g} in the first and {skip[-1]:.3g} in the "
        f"last of {len(skip)} blocks, of the last branch {branch[-1]:.3g}."
    )


class BranchesScaledDown(Claim, code="C1201"):
    """With He's initialization, batch normalization makes residual branches small beside their skip
    paths.

    A branch of the variance of its skip doubles the variance in every block, which grows
    exponentially with depth. With normalization on the branch its variance stays (1 - 1/pi, 0.68,
    for ReLU and He's initialization) while that of the skip grows, linearly. This is about He's
    initialization, which the paper is about: PyTorch's own draws weights so small that branches
    shrink by themselves.

    Quantity: variance of the branch over that of the skip before the first step, geometric mean
        over blocks
    Needs: runs of `normscope study propagation` with {norm} and {reference} and initialization he
    Contradicted: residual branches are larger beside their skip paths {with_norm}
    """

    source = DE_SMITH
    networks = "convolutional"
    unit = "times"
    higher_supports = False
    margin = 1.25
    across = ("block", "initialization")
    also = (
        SecondaryMetric("variance of the last block's skip path", "times", partial(last, path=0)),
        SecondaryMetric("variance of the last block's branch", "times", partial(last, path=1)),
    )

    def value(self, cell: GridCell) -> float | None:
        variances = paths(cell) if self._is_meant(cell) else None
        if variances is None:
            return None
        skip, branch = variances
        return float(np.exp(np.mean(np.log(branch / skip))))

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """Return the variances themselves, by which linear and exponential growth differ."""
        every = ((group, arm, cells) for group in groups for arm, cells in group.arms.items())
        return tuple(
            _variances(f"{arm}{group.where}", by_seed)
            for group, arm, cells in every
            if (by_seed := [variances for cell in cells.values() if (variances := paths(cell))])
        )

    def _is_meant(self, cell: GridCell) -> bool:
        spec = cell.run.spec
        meant = {"initialization": "he", "block": "pre-activation"}
        return all(spec.get(knob) == value for knob, value in meant.items())
