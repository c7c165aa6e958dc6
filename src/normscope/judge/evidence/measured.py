"""Claims that read a measurement which is made beside training, and say so where runs lack it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import Evidence, Group, runs_of
from normscope.judge.evidence.quantities import accuracy_step
from normscope.judge.verdicts import Verdict
from normscope.records.measurement_names import EVALUATION
from normscope.records.run import WEIGHTS_NAME, RunRecord

NAMED = 1
"""Runs that are named; of the others there is a count."""


class Measured(Claim):
    """Base of such claims."""

    measurement: ClassVar[str]
    of_weights: ClassVar[bool] = True  # whether it needs the weights of the finished run

    def judge(self, evidence: Evidence) -> Verdict:
        verdict = super().judge(evidence)
        if verdict.outcome != "cannot tell":
            return verdict
        lacking = self._lacking(evidence)
        if not verdict.n:  # nothing was measured: which runs are needed goes without saying
            return dataclasses.replace(verdict, needs=lacking or verdict.needs)
        return dataclasses.replace(verdict, needs="; ".join(filter(None, (lacking, verdict.needs))))

    def _lacking(self, evidence: Evidence) -> str:
        """Which finished runs lack the measurement, and what would make it; empty where none does.

        Of settings at which other runs have it, if there are such: at the others it was not asked
        for.
        """
        groups = [_finished(group) for group in self._groups(evidence, self.arms(evidence))]
        asked = [runs for runs in groups if any(self.measurement in run.measured for run in runs)]
        lacking = [
            run for runs in asked or groups for run in runs if self.measurement not in run.measured
        ]
        there = [
            run
            for run in lacking
            if not self.of_weights or (run.directory / WEIGHTS_NAME).is_file()
        ]
        gone = [run for run in lacking if run not in there]
        parts = []
        if there:
            parts.append(
                f"the measurement {self.measurement} of {_names(there)}: `normscope study` makes it, if asked to"
            )
        if gone:
            parts.append(
                f"the measurement {self.measurement} of {_names(gone)}, whose {WEIGHTS_NAME} is gone: without its "
                "folder a run is trained again"
            )
        return "; ".join(parts)


def _finished(group: Group) -> list[RunRecord]:
    """The finished runs at a setting, each once."""
    runs = {run.directory: run for run in runs_of(group) if run.status == "finished"}
    return list(runs.values())


def median(
    run: RunRecord, measurement: str, statistic: str, *, from_place: int = 0
) -> float | None:
    """Median over the channels, from a place on, of what was measured per channel; None where it
    was not.
    """
    found = run.measured.get(measurement, {})
    values, place = found.get(statistic, np.array([])), found.get("place", np.array([]))
    if values.shape != place.shape:
        return None
    kept = values[(place >= from_place) & np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else None


def evaluated(run: RunRecord, statistics: str, batch_size: int = 0) -> float | None:
    """Measured test accuracy with statistics of this kind, those of the batch in batches of a size,
    in percent.
    """
    found = run.measured.get(EVALUATION, {})
    values = found.get(statistics, np.array([]))
    if statistics == "batch":
        sizes = found.get("size", np.array([]))
        values = values[sizes == batch_size] if values.shape == sizes.shape else np.array([])
    return 100 * float(values[0]) if len(values) and np.isfinite(values[0]) else None


def evaluation_step(runs: Sequence[RunRecord]) -> float:
    """The least difference of such accuracies, in percent: they are over 1,000 test images at most."""
    return max(accuracy_step(runs), 0.1)


def _names(runs: list[RunRecord]) -> str:
    shown = ", ".join(run.directory.name for run in runs[:NAMED])
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''} ({shown}{more})"
