"""Bases of the claims about transformers, whose arms are values of one knob."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.claim_kinds import MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import Evidence, GridCell, Group
from normscope.judge.evidence.transformers import held_out_loss
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES

PLACEMENT = "placement"


class TransformerClaim(Claim):
    """Base of the claims that are judged on transformers alone, whatever a study's norms are.

    Without arms of their own, the arms are two normalizations; without a quantity of their own, it
    is the loss on held-out data.
    """

    networks = "transformers"
    any_norm = True
    unit = "nats"
    higher_supports = False
    margin = 0.02
    best: ClassVar[bool] = False  # whether it is read at a run's best epoch, not at its last

    def value(self, cell: GridCell) -> float | None:
        return held_out_loss(cell.run, best=self.best)


class AtInitialization(TransformerClaim, MeasuredClaim):
    """Base of the claims about networks before their first step."""

    measurement = DEPTH_SIGNALS
    of_weights = False

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        return {}  # what a run learns afterwards says nothing of it


class InTrainedNetwork(TransformerClaim, MeasuredClaim):
    """Base of the claims about what is inside a trained network."""

    measurement = HIDDEN_STATES


class ReadTwice(WithinRunClaim, TransformerClaim):
    """Base of the claims about transformers of some kind that are read in two ways."""

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        return {self.between[0]: "the network"}


def means(
    groups: Sequence[Group], of: str, value: Callable[[GridCell], float | None]
) -> tuple[str, ...]:
    """Return a quantity's mean over the seeds of each arm, in words."""
    notes = []
    for group in groups:
        for arm, cells in group.arms.items():
            known = [found for cell in cells.values() if (found := value(cell)) is not None]
            if known:
                mean = f"mean of {len(known)} seeds: {np.mean(known):.3g}"
                notes.append(f"{of}, {arm}{group.where}, {mean}.")
    return tuple(notes)
