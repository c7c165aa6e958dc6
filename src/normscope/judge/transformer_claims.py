"""Bases of the claims about transformers, whose arms are values of one knob."""

from __future__ import annotations

from typing import ClassVar

from normscope.judge.claim import Claim
from normscope.judge.claim_kinds import MeasuredClaim, WithinRunClaim
from normscope.judge.evidence.cells import Evidence, value_of
from normscope.records.knobs import TRANSFORMERS
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES
from normscope.records.run import RunRecord

PLACEMENT = "placement"


class TransformerClaim(Claim):
    """Base of the claims that are judged on transformers alone, whatever a study's norms are.

    Without arms of their own, the arms are two normalizations.
    """

    between: ClassVar[tuple[str, str]]
    unit = "nats"
    higher_supports = False
    margin = 0.02

    def concerns(self, evidence: Evidence) -> bool:
        return any(run.spec.get("model") in TRANSFORMERS for run in evidence.runs)

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return self.between

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        return str(value_of(run, self.arm_field))


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
        return {self.readings[0]: "the network"}
