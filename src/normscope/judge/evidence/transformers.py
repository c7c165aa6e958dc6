"""Quantities of transformers' runs, for images and text alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from normscope.judge.evidence.cells import GridCell, knobs_of
from normscope.judge.evidence.quantities import chance
from normscope.records.run import RunRecord


def guessing_loss(run: RunRecord) -> float:
    """Return the cross-entropy of guessing, in nats."""
    return -math.log(chance(run))


def held_out_loss(run: RunRecord, *, best: bool = False) -> float | None:
    """Return the loss on held-out data in nats, after the last epoch or at its lowest; that of
    guessing where it is higher or the run diverged, as a run that failed is no worse by failing
    more.
    """
    guess = guessing_loss(run)
    if run.status == "diverged":
        return guess
    losses = run.column("test_loss")
    if run.status != "finished" or not len(losses):
        return None
    last = float(np.nanmin(losses) if best and np.isfinite(losses).any() else losses[-1])
    return min(last, guess) if math.isfinite(last) else None


def mean_losses(cells: Iterable[GridCell], over: tuple[str, ...]) -> dict[tuple, float]:
    """Return {values of the knobs: mean held-out loss over the cells}."""
    found: dict[tuple, list[float]] = {}
    for cell in cells:
        for run in cell.runs:
            if (loss := held_out_loss(run)) is not None:
                found.setdefault(knobs_of(run, over), []).append(loss)
    return {knobs: float(np.mean(losses)) for knobs, losses in found.items()}
