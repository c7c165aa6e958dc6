"""Seeds added until claims are decided: which runs a claim is judged on, and which it needs next.

Verdicts hold at any number of seeds (`judge.sequential`), so that adding seeds until one is there
makes no false ones. Everything here follows from the records: a study that was stopped goes on as
it would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from normscope.errors import InputError, one_of
from normscope.judge.claims import by_subject, claims, compared, judge_all
from normscope.judge.evidence.cells import Evidence
from normscope.judge.statistics import FIRM_FROM
from normscope.judge.verdicts import Verdict
from normscope.records.run import ENDED, RunRecord, load_run, status_of
from normscope.show.terminal import say
from normscope.studies.directory import StudyDirectory
from normscope.studies.spec import RunSpec


def check_codes(codes: Sequence[str]) -> None:
    """Refuse a code that is no claim's; InputError."""
    known = [claim.code for claim in claims()]
    for code in codes:
        if code not in known:
            raise InputError(one_of("claim", code, known))


def family(spec: RunSpec) -> RunSpec:
    """Return what the runs of all seeds have in common: the run of seed 0."""
    return dataclasses.replace(spec, seed=0)


def needed_by(
    codes: Collection[str], specs: Sequence[RunSpec], runs: Sequence[RunRecord] = ()
) -> set[RunSpec]:
    """Return the families that claims are judged on.

    Args:
        codes: of the claims; empty: every family.
        specs: the runs of the study.
        runs: those that are there; without them, every arm is taken to learn at every setting.
    """
    if not codes:
        return set(map(family, specs))
    known = {run.directory.name: run for run in runs}
    expected = [known.get(spec.name) or _finished(spec) for spec in specs]
    by_name = {spec.name: family(spec) for spec in specs}
    arms = compared(expected)
    found = set()
    for subject, own in by_subject(expected).items():
        evidence = Evidence(own, subject, *arms)
        for claim in claims():
            if claim.code in codes:
                found |= {by_name[run.directory.name] for run in claim.judged_on(evidence)}
    return found


def _finished(spec: RunSpec) -> RunRecord:
    """The record of a run that is still to come, without its numbers."""
    return RunRecord(Path(spec.name), dataclasses.asdict(spec), "finished", {"epoch": np.zeros(1)})


def open_claims(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    """Return the verdicts that so many seeds may still decide.

    With few seeds an estimate of how many more it takes says little: only from FIRM_FROM seeds on
    is a claim given up that would take more than there may be.
    """
    return [
        verdict
        for verdict in verdicts
        if verdict.outcome == "cannot tell" and verdict.n < most and _is_within_reach(verdict, most)
    ]


def _is_within_reach(verdict: Verdict, most: int) -> bool:
    if verdict.n < FIRM_FROM:
        return bool(verdict.values)
    return verdict.more_seeds is not None and verdict.n + verdict.more_seeds <= most


def why_stopped(verdicts: Sequence[Verdict], codes: Collection[str], most: int) -> str:
    """Say how many claims are decided, and why the others get no more seeds; of those that were
    asked for by their codes, also on which nothing is said.
    """
    tested = [verdict for verdict in verdicts if verdict.values]
    decided = [verdict for verdict in tested if verdict.outcome != "cannot tell"]
    parts = [f"{len(decided)} of {len(tested)} claims are decided"]
    reasons: dict[str, list[str]] = {}
    for verdict in tested:
        if verdict not in decided:
            reasons.setdefault(_why_open(verdict, most), []).append(verdict.code)
    parts += [f"{', '.join(of_these)}: {reason}" for reason, of_these in reasons.items()]
    if codes and (silent := [each.code for each in verdicts if not each.values]):
        parts.append(f"{', '.join(silent)}: these runs say nothing of it")
    return f"No more seeds: {'; '.join(parts)}."


def _why_open(verdict: Verdict, most: int) -> str:
    if verdict.n >= most:
        return f"open at the {most} seeds that were allowed (--max-seeds)"
    if verdict.more_seeds is None:
        return "no number of seeds up to 100 would probably decide"
    return f"would take more than {most} seeds (--max-seeds)"


class UntilDecided:
    """The runs of a study that are trained, and those that its open claims need next.

    Attributes:
        trained: the runs so far.
    """

    def __init__(self, study: StudyDirectory, codes: Collection[str], most: int):
        self._study, self._codes, self._most = study, codes, most
        self.trained: list[RunSpec] = []

    def next_runs(self, console: Console) -> list[RunSpec]:
        """Return the runs of one more seed for every claim that is still open, and say for which;
        none where no claim is, with the reason.
        """
        runs = [load_run(self._study.run(spec).path) for spec in self._recorded()]
        verdicts = judge_all(runs, *compared(runs), self._codes) if runs else []
        asked = open_claims(verdicts, self._most)
        codes = [verdict.code for verdict in asked]
        families = needed_by(codes, self.trained, runs) if codes else set[RunSpec]()
        counts: dict[RunSpec, int] = {}
        for spec in self.trained:
            counts[family(spec)] = max(counts.get(family(spec), 0), spec.seed + 1)
        new = [
            dataclasses.replace(spec, seed=counts[spec])
            for spec in counts
            if spec in families and counts[spec] < self._most
        ]
        if not new:
            say(console, why_stopped(verdicts, self._codes, self._most))
            return []
        say(console, f"Open, and one more seed for: {', '.join(dict.fromkeys(codes))}.")
        return new

    def _recorded(self) -> list[RunSpec]:
        return [spec for spec in self.trained if status_of(self._study.run(spec).path) in ENDED]
