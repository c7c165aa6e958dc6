"""Bases of the claims about transformers, whose arms are values of one knob."""

from __future__ import annotations

from normscope.judge.claim import Claim
from normscope.judge.claim_kinds import MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import Evidence
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES

PLACEMENT = "placement"


class TransformerClaim(Claim):
    """Base of the claims that are judged on transformers alone, whatever a study's norms are.

    Without arms of their own, the arms are two normalizations.
    """

    networks = "transformers"
    any_norm = True
    unit = "nats"
    higher_supports = False
    margin = 0.02


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
