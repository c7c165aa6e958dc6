"""Claims that set two readings of the same runs against each other: the same network, measured in two ways."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import Evidence, Group
from normscope.records.run import RunRecord

READING = "reading"


class WithinRuns(Claim):
    """Base of such claims. Every run with the normalization stands in both arms; `cell.arm` says
    how to read it.
    """

    readings: ClassVar[tuple[str, str]]
    arm_field = READING

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return self.readings

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        return run.spec.get(READING)

    def _groups(self, evidence: Evidence, arms: tuple[str, str]) -> list[Group]:
        runs = [
            dataclasses.replace(run, spec={**run.spec, READING: reading})
            for run in evidence.runs
            if run.norm == evidence.norm
            for reading in self.readings
        ]
        return super()._groups(
            Evidence(runs, evidence.subject, evidence.norm, evidence.reference), arms
        )

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        return {self.readings[0]: evidence.norm}
