"""What a claim is: a statement, the quantity that measures it, and the test that decides, all fixed in its file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from normscope.judge import statistics
from normscope.judge.evidence.cells import Evidence, GridCell, Group, runs_of
from normscope.judge.evidence.quantities import has_learned
from normscope.judge.evidence.summary import Summary, Value, idle, settings_to_learn_at, warnings_on
from normscope.judge.statistics import LEAST_PAIRS, LEVEL, Estimate
from normscope.judge.verdicts import EffectEstimate, Outcome, Source, Verdict
from normscope.records.run import RunRecord

REGISTERED: list[type[Claim]] = []
"""The claims that are judged."""


def register(claim: type[Claim]) -> type[Claim]:
    """Add a class to the claims that are judged; one without this decorator is a part of others."""
    REGISTERED.append(claim)
    return claim


@dataclass(frozen=True)
class SecondaryMetric:
    """A quantity that is reported beside the one that decides."""

    label: str
    unit: str
    value: Value
    ratio: bool = False


class Claim:
    """Base of the claims. The docstring of a claim says why its quantity measures it; its
    attributes say the rest.

    The quantity has one value for each arm and seed at a setting. Values are paired by seed; over
    several settings a seed's differences are averaged, so that one test decides, and a setting that
    significantly says the opposite (Holm-adjusted) leaves the claim open. So does a run whose value
    is infinite: an arm is not judged by the others. A claim reads records and imports no torch.
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
    across: ClassVar[
        tuple[str, ...]
    ] = ()  # knobs of other claims that may differ from setting to setting
    also: ClassVar[tuple[SecondaryMetric, ...]] = ()
    where_both_learn: ClassVar[bool] = (
        False  # whether settings and seeds at which an arm does not learn say nothing
    )
    arm_field: ClassVar[str] = "norm"
    decides: ClassVar[str] = (
        ""  # for the page, where it is another rule than that of one difference
    )

    def value(self, cell: GridCell) -> float | None:
        """The quantity for one arm and seed at one setting; None where the records do not give it."""
        raise NotImplementedError

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        """The two arms, the one that the claim is about first."""
        return evidence.norm, evidence.reference

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        """The arm that a run belongs to."""
        return run.norm

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        """The step in which the quantity is read on the runs of one setting, in its unit; 0 for a
        continuous one.
        """
        return 0.0

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """What a reader has to know of the settings that the verdict is on, beside what is said of
        any.
        """
        return ()

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict on the runs of one network on one data set."""
        arms = self.arms(evidence)
        found, learners = self._groups(evidence, arms), self._learners(evidence)
        dead = [group for group in found if self.where_both_learn and idle(group, learners)]
        groups = [group for group in found if group not in dead]
        resolution = max((self.resolution(runs_of(group)) for group in groups), default=0.0)
        summary = Summary(
            self._value_of_learners if self.where_both_learn else self.value,
            groups,
            arms,
            self.ratio,
        )
        if not summary.groups:
            needs = (
                settings_to_learn_at(found, learners)
                if found and not groups
                else self._missing(evidence)
            )
            return self._verdict(evidence, "cannot tell", needs=_finite(summary) or needs)
        estimate = summary.estimate(self._margin, resolution)
        settings = self._settings(summary, resolution) if not summary.non_finite else ()
        outcome, needs = self._decide(estimate, settings, resolution)
        if summary.non_finite:
            outcome, needs = "cannot tell", _finite(summary)
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
            more_seeds=self._seeds_left(estimate, summary),
            settings=settings if len(settings) > 1 else (),
            also=tuple(self._secondary(item, summary.groups, arms) for item in self.also),
            notes=(*warnings_on(summary, groups, dead, learners), *self.notes(summary.groups)),
        )

    def _value_of_learners(self, cell: GridCell) -> float | None:
        return self.value(cell) if has_learned([cell]) else None

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

    def _decide(
        self, estimate: Estimate, settings: tuple[EffectEstimate, ...], resolution: float
    ) -> tuple[Outcome, str]:
        outcome = self._outcome(estimate)
        if outcome == "cannot tell":
            more = self._more_seeds(estimate)
            if more is None and resolution >= self._margin:
                return (
                    outcome,
                    f"finer steps: it is read in steps of {resolution:.2g} {self.unit}, which is too coarse",
                )
            return outcome, _seeds(more, estimate)
        opposite = {"supported": "contradicted", "contradicted": "supported"}.get(outcome)
        against = [reading.label for reading in settings if reading.outcome == opposite]
        if against:
            return (
                "cannot tell",
                f"one setting to speak of: on average {outcome}, but {opposite} at {against[0]}",
            )
        return outcome, ""

    def _more_seeds(self, estimate: Estimate) -> int | None:
        return statistics.more_seeds(estimate, self._margin)

    def _seeds_left(self, estimate: Estimate, summary: Summary) -> int | None:
        if summary.non_finite or self._outcome(estimate) != "cannot tell":
            return None
        return self._more_seeds(estimate)

    def _outcome(self, estimate: Estimate) -> Outcome:
        if estimate.p_equivalent is not None and estimate.p_equivalent < LEVEL:
            return "no difference"
        if estimate.p is None or estimate.p >= LEVEL:
            return "cannot tell"
        return "supported" if (estimate.effect > 0) == self.higher_supports else "contradicted"

    def _settings(self, summary: Summary, resolution: float) -> tuple[EffectEstimate, ...]:
        many = len(summary.groups)
        estimates = [
            summary.estimate_of(group, self._margin, resolution, tests=many)
            for group in summary.groups
        ]
        adjusted = statistics.holm_estimates(estimates)
        return tuple(
            EffectEstimate(
                group.label,
                self.unit,
                self._shown(estimate.effect),
                self._shown_interval(estimate.interval),
                estimate.n,
                estimate.p,
                self._outcome(estimate),
            )
            for group, estimate in zip(summary.groups, adjusted, strict=True)
        )

    def _secondary(
        self, item: SecondaryMetric, groups: Sequence[Group], arms: tuple[str, str]
    ) -> EffectEstimate:
        summary = Summary(item.value, groups, arms, item.ratio)
        estimate = summary.estimate(0.0, 0.0)
        effect, interval = estimate.effect, estimate.interval
        if item.ratio:
            effect, interval = (
                math.exp(effect),
                interval and (math.exp(interval[0]), math.exp(interval[1])),
            )
        known = math.isfinite(effect)
        return EffectEstimate(
            item.label, item.unit, effect if known else None, interval, estimate.n, estimate.p
        )

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


def _finite(summary: Summary) -> str:
    """What is needed where values are infinite."""
    if not summary.non_finite:
        return ""
    first, *others = summary.non_finite
    more = f" and {len(others)} more" if others else ""
    return f"a setting at which every run gives a number: not {first}{more}"


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
