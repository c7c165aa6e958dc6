"""What a claim is: a statement, the quantity that measures it, and the test that decides, all fixed in its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from normscope.judge import statistics
from normscope.judge.claims.cells import Cell, Evidence, Group, has_learned
from normscope.judge.claims.verdicts import Outcome, Reading, Source, Verdict
from normscope.judge.statistics import LEAST_PAIRS, LEVEL, Estimate
from normscope.records.run import RunRecord

Value = Callable[[Cell], float | None]
SeedValues = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Companion:
    """A quantity that is reported beside the one that decides."""

    label: str
    unit: str
    value: Value
    ratio: bool = False


class Claim:
    """Base of the claims. The docstring of a claim says why its quantity measures it; its attributes say the rest.

    The quantity has one value for each arm and seed at a setting. Values are paired by seed; over several settings a
    seed's differences are averaged, so that one test decides, and a setting that significantly says the opposite
    (Holm-adjusted) leaves the claim open. A claim reads records and imports no torch.
    """

    code: ClassVar[str]
    name: ClassVar[str]  # kebab case
    statement: ClassVar[str]
    source: ClassVar[Source]
    quantity: ClassVar[str]
    needs: ClassVar[str]  # which runs
    unit: ClassVar[str]
    higher_supports: ClassVar[bool]  # whether a larger value of the first arm speaks for the claim
    margin: ClassVar[float]  # the largest difference that counts as none; of ratios the factor
    ratio: ClassVar[bool] = False  # arms are compared by value / value
    over: ClassVar[tuple[str, ...]] = ()  # knobs that are varied inside one value
    least: ClassVar[int] = 1  # values of those knobs without which there is no quantity
    across: ClassVar[tuple[str, ...]] = ()  # knobs of other claims that may differ from setting to setting
    also: ClassVar[tuple[Companion, ...]] = ()
    arm_field: ClassVar[str] = "norm"
    decides: ClassVar[str] = ""  # for the page, where it is another rule than that of one difference

    def value(self, cell: Cell) -> float | None:
        """The quantity for one arm and seed at one setting; None where the records do not give it."""
        raise NotImplementedError

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        """The two arms, the one that the claim is about first."""
        return evidence.norm, evidence.reference

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        """The arm that a run belongs to."""
        return run.norm

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        """The step in which the quantity can be read, in its unit; 0 for a continuous one."""
        return 0.0

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict on the runs of one network on one data set."""
        arms = self.arms(evidence)
        groups = self._groups(evidence, arms)
        resolution = self.resolution(evidence.ended)
        summary = _Summary(self.value, groups, arms, self.ratio)
        if not summary.groups:
            return self._verdict(evidence, "cannot tell", needs=self._missing(evidence))
        estimate = summary.estimate(self._margin, resolution)
        settings = self._settings(summary, resolution)
        outcome, needs = self._decide(estimate, settings)
        return self._verdict(
            evidence,
            outcome,
            effect=self._shown(estimate.effect),
            interval=self._shown_interval(estimate.interval),
            n=estimate.n,
            p=estimate.p,
            test=estimate.test,
            improvement=summary.improvement(self.higher_supports),
            values=summary.values(),
            needs=needs,
            settings=settings if len(settings) > 1 else (),
            also=tuple(self._companion(item, groups, arms) for item in self.also),
            notes=_warnings(summary, groups, self._learners(evidence)),
        )

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        """{arm: what to call it where its runs did not learn}."""
        return {arm: arm for arm in self.arms(evidence)}

    @property
    def _margin(self) -> float:
        return math.log(self.margin) if self.ratio else self.margin

    def _groups(self, evidence: Evidence, arms: tuple[str, str]) -> list[Group]:
        def arm_of(run: RunRecord) -> str | None:
            return self.arm_of(run, evidence)

        groups = evidence.groups(arm_of, arms, self.over, self.across, self.arm_field)
        return [group for group in groups if self._has_enough_knobs(group, arms)]

    def _has_enough_knobs(self, group: Group, arms: tuple[str, str]) -> bool:
        cells = [cell for arm in arms for cell in group.arms[arm].values()]
        return bool(cells) and max(len(cell.runs) for cell in cells) >= self.least

    def _decide(self, estimate: Estimate, settings: tuple[Reading, ...]) -> tuple[Outcome, str]:
        outcome = self._outcome(estimate)
        if outcome == "cannot tell":
            return outcome, _seeds(self._more_seeds(estimate), estimate)
        opposite = {"supported": "contradicted", "contradicted": "supported"}.get(outcome)
        against = [reading.label for reading in settings if reading.outcome == opposite]
        if against:
            return "cannot tell", f"one setting to speak of: on average {outcome}, but {opposite} at {against[0]}"
        return outcome, ""

    def _more_seeds(self, estimate: Estimate) -> int | None:
        return statistics.more_seeds(estimate, self._margin)

    def _outcome(self, estimate: Estimate) -> Outcome:
        if estimate.p_equivalent is not None and estimate.p_equivalent < LEVEL:
            return "no difference"
        if estimate.p is None or estimate.p >= LEVEL:
            return "cannot tell"
        return "supported" if (estimate.effect > 0) == self.higher_supports else "contradicted"

    def _settings(self, summary: _Summary, resolution: float) -> tuple[Reading, ...]:
        many = len(summary.groups)
        estimates = [summary.estimate_of(group, self._margin, resolution, tests=many) for group in summary.groups]
        adjusted = statistics.holm([estimate.p for estimate in estimates])
        return tuple(
            Reading(
                group.label,
                self.unit,
                self._shown(estimate.effect),
                self._shown_interval(estimate.interval),
                estimate.n,
                p,
                self._outcome(statistics.with_p(estimate, p)),
            )
            for group, estimate, p in zip(summary.groups, estimates, adjusted, strict=True)
        )

    def _companion(self, item: Companion, groups: Sequence[Group], arms: tuple[str, str]) -> Reading:
        summary = _Summary(item.value, groups, arms, item.ratio)
        estimate = summary.estimate(0.0, 0.0)
        effect, interval = estimate.effect, estimate.interval
        if item.ratio:
            effect, interval = math.exp(effect), interval and (math.exp(interval[0]), math.exp(interval[1]))
        known = math.isfinite(effect)
        return Reading(item.label, item.unit, effect if known else None, interval, estimate.n, estimate.p)

    def _shown(self, effect: float) -> float | None:
        if not math.isfinite(effect):
            return None
        return math.exp(effect) if self.ratio else effect

    def _shown_interval(self, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval is None or not self.ratio:
            return interval
        return math.exp(interval[0]), math.exp(interval[1])

    def _missing(self, evidence: Evidence) -> str:
        return self.needs.format(norm=evidence.norm, reference=evidence.reference)

    def _verdict(self, evidence: Evidence, outcome: Outcome, **found) -> Verdict:
        return Verdict(
            code=self.code,
            name=self.name,
            statement=self.statement,
            source=self.source,
            subject=evidence.subject,
            outcome=outcome,
            quantity=self.quantity,
            unit=self.unit,
            arms=self.arms(evidence),
            margin=self.margin,
            neutral=1.0 if self.ratio else 0.0,
            **found,
        )


class _Summary:
    """The values of one quantity by setting, arm and seed."""

    def __init__(self, value: Value, groups: Sequence[Group], arms: tuple[str, str], ratio: bool):
        self._arms, self._ratio = arms, ratio
        found = [(group, {arm: _values(value, group.arms[arm], ratio) for arm in arms}) for group in groups]
        self._found = [(group, of) for group, of in found if of[arms[0]] and of[arms[1]]]
        self._seeds = self._common_seeds()

    @property
    def groups(self) -> list[Group]:
        """The settings at which both arms have a value."""
        return [group for group, _ in self._found]

    def estimate(self, margin: float, resolution: float) -> Estimate:
        """The mean difference over the settings, paired by seed; without seeds in common, of arms at one setting."""
        if len(self._seeds) < LEAST_PAIRS and len(self._found) == 1:
            return self.estimate_of(self._found[0][0], margin, resolution)
        differences = [self._mean(self._arms[0], seed) - self._mean(self._arms[1], seed) for seed in self._seeds]
        return statistics.paired(differences, margin, resolution=resolution)

    def estimate_of(self, group: Group, margin: float, resolution: float, tests: int = 1) -> Estimate:
        """The difference at one setting: paired where three seeds are shared, else Welch."""
        first, second = (next(of for other, of in self._found if other is group)[arm] for arm in self._arms)
        seeds = sorted(set(first) & set(second))
        if len(seeds) < LEAST_PAIRS <= min(len(first), len(second)):
            return statistics.welch(list(first.values()), list(second.values()), margin, resolution=resolution)
        differences = [first[seed] - second[seed] for seed in seeds]
        return statistics.paired(differences, margin, resolution=resolution, tests=tests)

    def values(self) -> dict[str, dict[int, float]]:
        """{arm: {seed: mean over the settings}} as the quantity is, without logarithms."""
        shown = math.exp if self._ratio else float
        if not self._seeds and len(self._found) == 1:
            return {arm: {seed: shown(x) for seed, x in self._found[0][1][arm].items()} for arm in self._arms}
        return {arm: {seed: shown(self._mean(arm, seed)) for seed in self._seeds} for arm in self._arms}

    def improvement(self, higher_is_better: bool) -> float | None:
        """Probability that a run of the first arm is better than one of the second."""
        first, second = (list(seeds.values()) for seeds in self.values().values())
        if not higher_is_better:
            first, second = second, first
        return statistics.probability_of_improvement(first, second)

    def _common_seeds(self) -> list[int]:
        """Seeds that both arms have at every setting, of the settings that were not just begun."""
        pairs = [set(of[self._arms[0]]) & set(of[self._arms[1]]) for _, of in self._found]
        enough = min(LEAST_PAIRS, max((len(seeds) for seeds in pairs), default=0))
        kept = [place for place, seeds in enumerate(pairs) if len(seeds) >= max(enough, 1)]
        if kept:
            self._found = [self._found[place] for place in kept]
        return sorted(set.intersection(*(pairs[place] for place in kept))) if kept else []

    def _mean(self, arm: str, seed: int) -> float:
        return float(np.mean([of[arm][seed] for _, of in self._found]))


def _warnings(summary: _Summary, groups: Sequence[Group], learners: dict[str, str]) -> tuple[str, ...]:
    """Settings that do not count, and arms that did not learn at one that does."""
    held = summary.groups[0].held
    notes = [f"Judged at {', '.join(held)} only; other values are in this study for other claims."] if held else []
    left_out = [group.label for group in groups if group not in summary.groups and any(group.arms.values())]
    if left_out:
        notes.append(f"Left out, as too few runs of both arms give the quantity there: {'; '.join(left_out)}.")
    for group in summary.groups:
        idle = [words for arm, words in learners.items() if not has_learned(group.arms[arm].values())]
        where = f" at {group.label}" if group.label else ""
        notes += [f"{arm} did not learn{where}: its mean accuracy is hardly above guessing." for arm in idle]
    return tuple(notes)


def _values(value: Value, cells: dict[int, Cell], ratio: bool) -> dict[int, float]:
    found = {seed: value(cell) for seed, cell in cells.items()}
    known = {seed: x for seed, x in found.items() if x is not None and math.isfinite(x)}
    return {seed: math.log(x) for seed, x in known.items() if x > 0} if ratio else known


def _seeds(more: int | None, estimate: Estimate) -> str:
    if estimate.n < LEAST_PAIRS:
        return f"{_count(more or 1)} of both arms: n = {estimate.n} is too few for a test"
    if not estimate.spread:
        return "differences between seeds: here all are the same, so that their spread is not known"
    if more is None:
        return "more than 100 seeds, if they go on like these"
    return f"{_count(more)}, if they go on like these"


def _count(seeds: int) -> str:
    return f"{seeds} more seed{'s' if seeds != 1 else ''}"
