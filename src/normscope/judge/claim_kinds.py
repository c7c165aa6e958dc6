"""Bases of claims: on accuracies, on measurements beside training, on transformers, on one network
read in two ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from normscope.judge import statistics
from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import Evidence, GridCell, Group, runs_of
from normscope.judge.evidence.quantities import (
    accuracy,
    accuracy_step,
    evaluation_step,
    held_out_loss,
)
from normscope.judge.statistics import Estimate
from normscope.judge.verdicts import Verdict
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES, INITIALIZATION
from normscope.records.run import WEIGHTS_NAME, RunRecord
from normscope.words import listed, plural

NAMED = 1
"""Runs that are named; of the others there is a count."""


class AccuracyClaim(Claim):
    """Base of the claims about a test accuracy, in percent."""

    unit = "points"
    higher_supports = True
    margin = 0.5

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return accuracy_step(runs)


class FinalAccuracyClaim(AccuracyClaim):
    """Base of the claims that set the accuracies of finished runs against each other."""

    quantity = "test accuracy after the last epoch, in percent (diverged: that of guessing)"
    where_arms_learn = True

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run)


class SignClaim(Claim):
    """Base of the claims that are decided by how many seeds say so and not by how much, for
    quantities of which a seed may fail now and then.
    """

    unit = "points"
    higher_supports = True
    margin = 25.0

    def compare(
        self, first: Mapping[int, float], second: Mapping[int, float], **options: Any
    ) -> Estimate:
        return statistics.compare_signs(first, second, **options)


class MeasuredClaim(Claim):
    """Base of the claims that need a measurement made beside training."""

    measurement: ClassVar[str]
    of_weights: ClassVar[bool] = True  # whether it needs the weights of the finished run
    networks = "convolutional"

    def judge(self, evidence: Evidence) -> Verdict:
        verdict = super().judge(evidence)
        if verdict.outcome != "cannot tell":
            return verdict
        lacking = self._lacking(evidence)
        if not verdict.n:  # nothing was measured: which runs are needed goes without saying
            return dataclasses.replace(verdict, needs=lacking or verdict.needs)
        return dataclasses.replace(verdict, needs="; ".join(filter(None, (lacking, verdict.needs))))

    def _lacking(self, evidence: Evidence) -> str:
        """The finished runs that lack the measurement, and what would make it; "" where none does.

        Of settings at which other runs have it, if there are such: elsewhere nobody asked for it.
        """
        groups = [_finished(group) for group in self._groups(evidence, self.arms(evidence))]
        asked = [runs for runs in groups if any(self.measurement in run.measured for run in runs)]
        lacking = [
            run for runs in asked or groups for run in runs if self.measurement not in run.measured
        ]
        can = [run for run in lacking if not self.of_weights or _weights(run).is_file()]
        gone = [run for run in lacking if run not in can]
        parts = []
        if can:
            line = f'measure = ["{self.measurement}"]'
            parts.append(f"{_names(can)}: `normscope study` of a file with {line} makes it")
        if gone:
            lost = f"whose {WEIGHTS_NAME} is gone: without its folder a run is trained again"
            parts.append(f"{_names(gone)}, {lost}")
        return "; ".join(f"the measurement {self.measurement} of {part}" for part in parts)


class BeforeTraining(MeasuredClaim):
    """Base of the claims about a network before its first step, compared as ratios."""

    measurement = INITIALIZATION
    of_weights = False
    needs = "runs of `normscope study` with {norm} and {reference} (measurement initialization)"
    unit = "times"


def _weights(run: RunRecord) -> Path:
    return run.directory / WEIGHTS_NAME


def _finished(group: Group) -> list[RunRecord]:
    """The finished runs at a setting, each once."""
    runs = {run.directory: run for run in runs_of(group) if run.status == "finished"}
    return list(runs.values())


def _names(runs: list[RunRecord]) -> str:
    shown = listed((run.directory.name for run in runs), NAMED)
    return f"{plural(len(runs), 'run')} ({shown})"


READING = "reading"


class WithinRunClaim(Claim):
    """Base of the claims about one network read in two ways, `between`: every run with the
    normalization is in both arms, and `cell.arm` is the way to read it.
    """

    arm_field = READING
    any_norm = True
    within_runs = True

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        """Tell whether a run is one that the claim is about."""
        return run.norm == evidence.norm

    def _groups(self, evidence: Evidence, arms: tuple[str, str]) -> list[Group]:
        runs = [
            dataclasses.replace(run, spec={**run.spec, READING: reading})
            for run in evidence.runs
            if self.reads(run, evidence)
            for reading in self.between
        ]
        doubled = Evidence(runs, evidence.subject, evidence.norm, evidence.reference)
        return super()._groups(doubled, arms)

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        return {self.between[0]: evidence.norm}


class EvaluationClaim(MeasuredClaim, WithinRunClaim):
    """Base of the claims about test accuracies of one trained network, in percent, read with two
    kinds of statistics.
    """

    unit = "points"
    higher_supports = True
    margin = 0.5
    where_both_learn = True

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return evaluation_step(runs)


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
