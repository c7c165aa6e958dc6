"""C12xx: normalization scales residual branches down at initialization."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from normscope.judge.claims.base import Claim, Companion
from normscope.judge.claims.cells import Cell
from normscope.judge.claims.sources import DE_SMITH
from normscope.records.measurement_names import PROPAGATION


def paths(cell: Cell) -> tuple[np.ndarray, np.ndarray] | None:
    """Variances of skip and branch by block, float64 [blocks] each; None where they were not measured or not finite."""
    found = cell.run.measured.get(PROPAGATION, {})
    skip, branch = found.get("skip", np.array([])), found.get("branch", np.array([]))
    usable = len(skip) > 0 and skip.shape == branch.shape and (skip > 0).all() and (branch > 0).all()
    return (skip, branch) if usable and np.isfinite([skip, branch]).all() else None


def branch_over_skip(cell: Cell) -> float | None:
    """Geometric mean over the blocks of the branch's variance over the skip's."""
    found = paths(cell)
    return None if found is None else float(np.exp(np.mean(np.log(found[1] / found[0]))))


def last_variance(cell: Cell) -> float | None:
    """Variance of the skip path into the last block."""
    found = paths(cell)
    return None if found is None else float(found[0][-1])


class BranchesScaledDown(Claim):
    """A branch of the variance of its skip doubles the variance in every block, which grows exponentially with depth.
    With normalization on the branch its variance stays (1 - 1/pi, 0.68, for ReLU and He's initialization) while that of
    the skip grows, linearly. This is about He's initialization, which the paper is about; C1202 is about PyTorch's.
    """

    code = "C1201"
    name = "branches-scaled-down"
    statement = "With He's initialization, batch normalization makes residual branches small beside their skip paths."
    source = DE_SMITH
    quantity = "variance of the branch over that of the skip before the first step, geometric mean over blocks"
    needs = "runs of `normscope study propagation` with {norm} and {reference} and initialization he"
    unit = "times"
    higher_supports = False
    margin = 1.25
    ratio = True
    across = ("block", "initialization", "initialization_scale")
    initialization: ClassVar[str] = "he"
    also = (Companion("variance of the last block's skip path", "times", last_variance, ratio=True),)

    def value(self, cell: Cell) -> float | None:
        return branch_over_skip(cell) if cell.run.spec.get("initialization") == self.initialization else None


class BranchesScaledDownByDefault(BranchesScaledDown):
    """The same with PyTorch's default initialization, which draws weights so small that branches shrink by themselves:
    nothing explodes without normalization, and what normalization does to a branch is to enlarge it.
    """

    code = "C1202"
    name = "branches-scaled-down-by-default"
    statement = (
        "With PyTorch's default initialization too, batch normalization makes residual branches small beside their "
        "skip paths."
    )
    needs = "runs of `normscope study` with {norm} and {reference} in the pre-activation block (propagation)"
    initialization = "default"
