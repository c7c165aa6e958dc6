"""C12xx: normalization scales residual branches down at initialization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from normscope.judge.claim import Claim, SecondaryMetric, register
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.literature import BEYOND_DE_SMITH, DE_SMITH
from normscope.records.measurement_names import PROPAGATION


def paths(cell: GridCell) -> tuple[np.ndarray, np.ndarray] | None:
    """Variances of skip and branch by block, float64 [blocks] each; None where they were not
    measured or not finite.
    """
    found = cell.run.measured.get(PROPAGATION, {})
    skip, branch = found.get("skip", np.array([])), found.get("branch", np.array([]))
    usable = (
        len(skip) > 0 and skip.shape == branch.shape and (skip > 0).all() and (branch > 0).all()
    )
    return (skip, branch) if usable and np.isfinite([skip, branch]).all() else None


def branch_over_skip(cell: GridCell) -> float | None:
    """Geometric mean over the blocks of the branch's variance over the skip's."""
    found = paths(cell)
    return None if found is None else float(np.exp(np.mean(np.log(found[1] / found[0]))))


def last_variance(cell: GridCell) -> float | None:
    """Variance of the skip path into the last block."""
    found = paths(cell)
    return None if found is None else float(found[0][-1])


def last_branch(cell: GridCell) -> float | None:
    """Variance of the last block's branch."""
    found = paths(cell)
    return None if found is None else float(found[1][-1])


def _variances(where: str, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Means over seeds."""
    skip, branch = (
        np.mean([one[0] for one in found], axis=0),
        np.mean([one[1] for one in found], axis=0),
    )
    return (
        f"{where}: variance of the skip path {skip[0]:.3g} in the first and {skip[-1]:.3g} in the last of {len(skip)} "
        f"blocks, of the last branch {branch[-1]:.3g}."
    )


@register
class BranchesScaledDown(Claim):
    """A branch of the variance of its skip doubles the variance in every block, which grows
    exponentially with depth. With normalization on the branch its variance stays (1 - 1/pi, 0.68,
    for ReLU and He's initialization) while that of the skip grows, linearly. This is about He's
    initialization, which the paper is about; C1202 is about PyTorch's.
    """

    code = "C1201"
    name = "branches-scaled-down"
    statement = "With He's initialization, batch normalization makes residual branches small beside their skip paths."
    source = DE_SMITH
    quantity = "variance of the branch over that of the skip before the first step, geometric mean over blocks"
    needs = (
        "runs of `normscope study propagation` with {norm} and {reference} and initialization he"
    )
    unit = "times"
    higher_supports = False
    margin = 1.25
    ratio = True
    across = ("block", "initialization")
    initialization: ClassVar[str] = "he"
    also = (
        SecondaryMetric(
            "variance of the last block's skip path", "times", last_variance, ratio=True
        ),
        SecondaryMetric("variance of the last block's branch", "times", last_branch, ratio=True),
    )

    def value(self, cell: GridCell) -> float | None:
        return branch_over_skip(cell) if self._is_meant(cell) else None

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """The variances themselves, by which linear and exponential growth are told apart."""
        every = ((group, arm, cells) for group in groups for arm, cells in group.arms.items())
        return tuple(
            _variances(f"{arm}{group.where}", of_arm)
            for group, arm, cells in every
            if (of_arm := [found for cell in cells.values() if (found := paths(cell))])
        )

    def _is_meant(self, cell: GridCell) -> bool:
        spec = cell.run.spec
        return (spec.get("initialization"), spec.get("block")) == (
            self.initialization,
            "pre-activation",
        )


@register
class BranchesScaledDownByDefault(BranchesScaledDown):
    """The same with PyTorch's default initialization, which draws weights so small that branches
    shrink by themselves: nothing explodes without normalization, and what normalization does to a
    branch is to enlarge it.
    """

    code = "C1202"
    name = "branches-scaled-down-by-default"
    statement = (
        "With PyTorch's default initialization too, batch normalization makes residual branches small beside their "
        "skip paths."
    )
    needs = "runs of `normscope study` with {norm} and {reference} in the pre-activation block (propagation)"
    source = BEYOND_DE_SMITH
    initialization = "default"
