"""The base of the claims: a statement, the quantity that measures it, and the test that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from normscope.judge import statistics
from normscope.judge.docstrings import kebab_case, one_line, sections
from normscope.judge.evidence.cells import Evidence, GridCell, Group, runs_of, value_of
from normscope.judge.evidence.quantities import has_learned
from normscope.judge.evidence.summary import Summary, Value, idle, settings_to_learn_at, warnings_on
from normscope.judge.statistics import LEAST_PAIRS, LEVEL, Estimate
from normscope.judge.verdicts import EffectEstimate, Outcome, Source, Verdict
from normscope.records.run import RunRecord
from normscope.records.run_description import TRANSFORMERS
from normscope.words import listed, plural

RATIO = "times"
"""The unit of a ratio."""

WIDEST = 50.0
"""An interval of logarithms that goes further says nothing, and cannot be drawn."""

SECTIONS = {
    "Quantity": "quantity", "Needs": "needs", "Decided by": "decides", "Contradicted": "contrary",
}  # fmt: skip
"""Of a claim's docstring, and the attributes that they set."""


@dataclass(frozen=True)
class SecondaryMetric:
    """A quantity that is reported beside the one that decides."""

    label: str
    unit: str
    value: Value


class Claim:
    """Base of the claims; a subclass with a code is judged, one without is a part of others.

    The first paragraph of a claim's docstring is its statement, the next say why its quantity
    measures it. The sections Quantity, Needs (which runs), Decided by (where it is another rule
    than that of one difference) and Contradicted (what is so then, the end of "Against common
    belief, …") follow; a section that is not there is that of the base class.

    The quantity has one value for each arm and seed at a setting. The confidence sequence of the
    mean difference decides. Over several settings a seed's values are averaged, so that one
    interval decides, and a setting that says the opposite (p < LEVEL by itself) leaves the claim
    open. So does a run whose value
    is infinite: an arm is not judged by the others. A claim reads records and imports no torch.
    """

    registry: ClassVar[dict[str, type[Claim]]] = {}  # {code: the claim}

    code: ClassVar[str] = ""
    name: ClassVar[str] = ""  # that of the class, in kebab case
    statement: ClassVar[str] = ""
    why: ClassVar[str] = ""  # the quantity is the one to read
    quantity: ClassVar[str]
    needs: ClassVar[str]
    decides: ClassVar[str] = ""
    contrary: ClassVar[str] = ""
    source: ClassVar[Source]
    unit: ClassVar[str]  # RATIO: the arms are compared by value / value, else by their difference
    higher_supports: ClassVar[bool]  # whether a larger value of the first arm speaks for the claim
    margin: ClassVar[float]  # the largest difference that counts as none; of ratios the factor
    over: ClassVar[tuple[str, ...]] = ()  # knobs that are varied inside one value
    least: ClassVar[int] = 1  # values of those knobs without which there is no quantity
    across: ClassVar[tuple[str, ...]] = ()  # other claims' knobs that may differ between settings
    also: ClassVar[tuple[SecondaryMetric, ...]] = ()
    where_both_learn: ClassVar[bool] = False  # settings and seeds without learning say nothing
    where_arms_learn: ClassVar[bool] = False  # settings at which an arm does not learn say nothing
    arm_field: ClassVar[str] = "norm"
    between: ClassVar[tuple[str, str]] = ("{norm}", "{reference}")  # values of that field
    any_norm: ClassVar[bool] = False  # arms of another field are read at every normalization
    networks: ClassVar[str] = ""  # convolutional or transformers; empty: all
    within_runs: ClassVar[bool] = False  # both arms are readings of the same runs

    def __init_subclass__(cls, *, code: str = "") -> None:
        """Read the docstring of a claim with a code, and register it."""
        super().__init_subclass__()
        if code:
            text = sections(cls.__doc__ or "", *SECTIONS)
            statement, _, why = text.pop("").partition("\n\n")
            cls.code, cls.name = code, kebab_case(cls.__name__)
            cls.statement, cls.why = one_line(statement), one_line(why)
            for title, content in text.items():
                setattr(cls, SECTIONS[title], one_line(content))
            Claim.registry[code] = cls

    @property
    def ratio(self) -> bool:
        """The arms are compared by value / value."""
        return self.unit == RATIO

    def value(self, cell: GridCell) -> float | None:
        """Return the quantity for one arm and seed at one setting; None where records lack it."""
        raise NotImplementedError

    def concerns(self, evidence: Evidence) -> bool:
        """Tell whether the claim is about such networks at all; it is not judged on others."""
        kinds = {run.spec.get("model") in TRANSFORMERS for run in evidence.runs}
        return not self.networks or (self.networks == "transformers") in kinds

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        """Return the two arms, the one that the claim is about first."""
        named = {"{norm}": evidence.norm, "{reference}": evidence.reference}
        first, second = (named.get(arm, arm) for arm in self.between)
        return first, second

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        """Return the arm that a run belongs to."""
        if self.arm_field != "norm" and not self.any_norm and run.norm != evidence.norm:
            return None
        return str(value_of(run, self.arm_field))

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        """Return the step in which the quantity is read on the runs of one setting, in its unit; 0
        for a continuous one.
        """
        return 0.0

    def compare(
        self, first: Mapping[int, float], second: Mapping[int, float], **options: Any
    ) -> Estimate:
        """Return the estimate that decides, from {seed: value} of each arm."""
        return self._of_means(first, second, **options)

    def _of_means(
        self, first: Mapping[int, float], second: Mapping[int, float], **options: Any
    ) -> Estimate:
        return statistics.compare(first, second, **options, within=self.within_runs)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """Return remarks on the settings of the verdict, beside those that every claim makes."""
        return ()

    def judged_on(self, evidence: Evidence) -> list[RunRecord]:
        """Return the runs that the verdict is about: those at its settings, of both arms."""
        arms = self.arms(evidence)
        every = [group for group in self._groups(evidence, arms) if all(group.arms.values())]
        dead = self._dead(every, evidence)
        return [run for group in every if group not in dead for run in runs_of(group)]

    def _dead(self, groups: Sequence[Group], evidence: Evidence) -> list[Group]:
        """The settings at which nothing is judged, as an arm does not learn there."""
        learners = self._learners(evidence)
        strict = self.where_both_learn or self.where_arms_learn
        return [group for group in groups if strict and idle(group, learners)]

    def judge(self, evidence: Evidence) -> Verdict:
        """Return the verdict on the runs of one network on one data set."""
        arms = self.arms(evidence)
        every, learners = self._groups(evidence, arms), self._learners(evidence)
        dead = self._dead(every, evidence)
        groups = [group for group in every if group not in dead]
        resolution = max((self.resolution(runs_of(group)) for group in groups), default=0.0)
        value = self._value_of_learners if self.where_both_learn else self.value
        summary = Summary(value, groups, arms, self.ratio, self.compare)
        if not summary.groups:
            needs = self.needs.format(norm=evidence.norm, reference=evidence.reference)
            if every and not groups:
                needs = settings_to_learn_at(every, learners)
            return self._verdict(evidence, "cannot tell", needs=_finite(summary) or needs)
        estimate = summary.estimate(resolution)
        settings = self._settings(summary, resolution) if not summary.non_finite else ()
        outcome, needs = self._decide(estimate, settings)
        if summary.non_finite:
            outcome, needs = "cannot tell", _finite(summary)
        notes = (
            *warnings_on(summary, groups, dead, learners),
            *self._failures(evidence),
            *self.notes(summary.groups),
        )
        return self._verdict(
            evidence,
            outcome,
            needs=needs,
            more_seeds=self._seeds_left(estimate, summary),
            settings=settings if len(settings) > 1 else (),
            also=tuple(self._secondary(item, summary.groups) for item in self.also),
            notes=notes,
            **self._measured(estimate, summary),
        )

    def _measured(self, estimate: Estimate, summary: Summary) -> dict[str, Any]:
        """The fields of a verdict that say what was measured."""
        shown = _in_unit(estimate, "", self.unit)
        improvement, interval = summary.improvement(self.higher_supports)
        same = ("effect", "interval", "n", "e", "p", "fixed_interval")
        return {
            **{name: getattr(shown, name) for name in same},
            "test": estimate.test,
            "improvement": improvement,
            "improvement_interval": interval,
            "values": summary.values(),
        }

    def _value_of_learners(self, cell: GridCell) -> float | None:
        return self.value(cell) if has_learned([cell]) else None

    def _failures(self, evidence: Evidence) -> list[str]:
        """Notes on runs that failed: an arm may look better for having lost them."""
        notes = []
        for arm in self.arms(evidence):
            own = [run for run in evidence.runs if self.arm_of(run, evidence) == arm]
            if failed := sum(run.status == "failed" for run in own):
                notes.append(
                    f"{failed} of {plural(len(own), 'run')} of {arm} failed and count for nothing: "
                    "the verdict is on the others."
                )
        return notes

    def _learners(self, evidence: Evidence) -> dict[str, str]:
        """{arm: its name in a sentence on runs that did not learn}."""
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
        self, estimate: Estimate, settings: tuple[EffectEstimate, ...]
    ) -> tuple[Outcome, str]:
        outcome = self._outcome(estimate)
        if outcome == "cannot tell":
            more = self._more_seeds(estimate)
            if more is None and estimate.resolution >= self._margin:
                step = f"{estimate.resolution:.2g} {self.unit}"
                return outcome, f"finer steps: it is read in steps of {step}, which is too coarse"
            return outcome, _seeds(more, estimate)
        opposite = {"supported": "contradicted", "contradicted": "supported"}.get(outcome)
        against = [each.label for each in settings if self._says(each) == opposite]
        if opposite and against:
            both = f"on average {outcome}, but {opposite} at {against[0]}"
            return "cannot tell", f"one setting to speak of: {both}"
        return outcome, ""

    def _more_seeds(self, estimate: Estimate) -> int | None:
        return statistics.more_seeds(estimate, self._margin)

    def _seeds_left(self, estimate: Estimate, summary: Summary) -> int | None:
        if summary.non_finite or self._outcome(estimate) != "cannot tell":
            return None
        return self._more_seeds(estimate)

    def _says(self, reading: EffectEstimate) -> Outcome:
        """What a setting says by its fixed-n test alone: enough to make a verdict doubtful."""
        if reading.effect is None or reading.p is None or reading.p >= LEVEL:
            return "cannot tell"
        above = reading.effect > (1 if self.ratio else 0)
        return "supported" if above == self.higher_supports else "contradicted"

    def _outcome(self, estimate: Estimate) -> Outcome:
        if estimate.is_inside(self._margin):
            return "negligible" if estimate.sign else "no difference"
        if not estimate.sign:
            return "cannot tell"
        return "supported" if (estimate.sign > 0) == self.higher_supports else "contradicted"

    def _settings(self, summary: Summary, resolution: float) -> tuple[EffectEstimate, ...]:
        groups = summary.groups
        estimates = {
            group.label: summary.estimate_of(group, resolution, tests=len(groups))
            for group in groups
        }
        return tuple(
            _in_unit(estimate, label, self.unit, self._outcome(estimate))
            for label, estimate in estimates.items()
        )

    def _secondary(self, item: SecondaryMetric, groups: Sequence[Group]) -> EffectEstimate:
        first, second = groups[0].arms
        arms = first, second
        summary = Summary(item.value, groups, arms, item.unit == RATIO, self._of_means)
        return _in_unit(summary.estimate(0.0), item.label, item.unit)

    def _verdict(self, evidence: Evidence, outcome: Outcome, **measured) -> Verdict:
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
            **measured,
        )


def _in_unit(
    estimate: Estimate, label: str, unit: str, outcome: Outcome | None = None
) -> EffectEstimate:
    """An estimate in the unit of its quantity: of ratios it was made of logarithms."""
    shown = math.exp if unit == RATIO else float

    def ends(interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval is None or (unit == RATIO and max(map(abs, interval)) > WIDEST):
            return None
        return shown(interval[0]), shown(interval[1])

    return EffectEstimate(
        label,
        unit,
        effect=shown(estimate.effect) if math.isfinite(estimate.effect) else None,
        interval=ends(estimate.interval),
        n=estimate.n,
        p=estimate.p,
        fixed_interval=ends(estimate.fixed_interval),
        e=estimate.e,
        outcome=outcome,
    )


def _finite(summary: Summary) -> str:
    if not summary.non_finite:
        return ""
    return f"a setting at which every run gives a number: not {listed(summary.non_finite, 1)}"


def _seeds(more: int | None, estimate: Estimate) -> str:
    if estimate.n < LEAST_PAIRS:
        return (
            f"{plural(more or 1, 'more seed')} of both arms: n = {estimate.n} is too few for a test"
        )
    if estimate.discordant == 0:
        return "seeds at which the arms differ: here there is none"
    if estimate.discordant is None and not estimate.spread:
        return "differences between seeds: here all are the same, so that their spread is not known"
    if more is None:
        return "more than 100 seeds, if they go on like these"
    return f"{plural(more, 'more seed')}, if they go on like these"
