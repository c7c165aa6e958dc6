"""The headline of a study: what was found and how sure it is, in one to three sentences.

Every sentence is composed by rules from verdicts and runs, so that the terminal, the page and the
files say the same words. A sentence that the runs do not allow is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from normscope.judge import statistics
from normscope.judge.claims import by_subject, claims, compared, judge_all
from normscope.judge.evidence.cells import Evidence, runs_of
from normscope.judge.evidence.quantities import (
    accuracy,
    chance,
    guessing_loss,
    held_out_loss,
    learned_from,
)
from normscope.judge.headline_words import (
    CONTRARY,
    count_text,
    estimate_text,
    name_of,
    nats_text,
    points,
    seeds_text,
    verdict_text,
    with_each,
    with_norm,
)
from normscope.judge.layer_measures import active_share, layers_before_activations, measure_regions
from normscope.judge.statistics import FIRM_FROM, LEAST_PAIRS, Estimate
from normscope.judge.timeline import Timeline
from normscope.judge.verdicts import OUTCOMES, Verdict, effect_text, family_sentence
from normscope.records.recording import Recording
from normscope.records.run import RunRecord
from normscope.records.run_description import TEXT_MODEL

EQUAL_SETTINGS, OWN_RATE, TOLERANCE = "C201", "C202", "C501"
"""The claims that the sentences on accuracy and on learning rates are made of."""

OWN_BEST = "At its own best rate each"

BEST_RATE = (
    "An arm's own best rate is the one at which its seeds are best on average; a diverged run "
    "counts as guessing."
)
"""What has to be known to read a sentence that begins with OWN_BEST."""

MOST_CONTRARY = 2
"""Contradicted claims that are named; of the others there is a count."""

MOST_ARMS = 4
"""Arms that are named with their numbers; of more, the best, the last and counts."""


@dataclass(frozen=True)
class Headline:
    """What was found on one network and data set."""

    subject: str  # which network on which data
    sentences: tuple[str, ...]
    settle: str = ""  # what would settle what is open; empty where nothing is
    family: str = ""  # how many verdicts stand together; empty where none says anything

    @property
    def note(self) -> str:
        """What has to be known to read it; empty where it says so itself."""
        return BEST_RATE if any(OWN_BEST in sentence for sentence in self.sentences) else ""

    @property
    def text(self) -> str:
        """All of it in one paragraph."""
        return " ".join(filter(None, (*self.sentences, self.settle)))

    def to_json(self) -> dict[str, Any]:
        """An entry of summary.json."""
        return {
            "subject": self.subject,
            "sentences": list(self.sentences),
            "settle": self.settle,
            "family": self.family,
            "text": self.text,
        }


def headlines(
    runs: Sequence[RunRecord],
    verdicts: Sequence[Verdict] | None = None,
    arms: tuple[str, str] | None = None,
    observed: str = "",
) -> list[Headline]:
    """Return what was found on each network and data set among runs, also of several studies.

    Args:
        verdicts: of every claim on these runs; None judges them.
        arms: those that the verdicts are about; None: those that were compared.
        observed: a sentence on what was seen inside the network (see `passing`).
    """
    if not runs:
        return []
    arms = arms or compared(runs)
    verdicts = judge_all(runs, *arms) if verdicts is None else verdicts
    made = []
    for subject, own in by_subject(runs).items():
        by_code = {verdict.code: verdict for verdict in verdicts if verdict.subject == subject}
        case = _Case(Evidence(own, subject, *arms), by_code)
        sentences = (
            case.losses(), case.accuracies(), case.other_arms(), case.rates(), observed,
            case.contrary(),
        )  # fmt: skip
        family = family_sentence(list(by_code.values()))
        made.append(Headline(subject, tuple(filter(None, sentences)), case.settle(), family))
    return made


@dataclass(frozen=True)
class Conclusions:
    """What the commands end with, the page begins with and the files hold."""

    headlines: tuple[Headline, ...]
    counts: Mapping[str, int]  # {outcome: claims}, of those on which the runs say something

    def to_json(self) -> dict[str, Any]:
        """Return the entries of a command's JSON file."""
        return {
            "headline": [each.to_json() for each in self.headlines],
            "counts": dict(self.counts),
        }

    def paragraphs(self) -> list[str]:
        """Each headline, with its subject where there are several."""
        several = len(self.headlines) > 1
        return [f"{each.subject}: {each.text}" if several else each.text for each in self.headlines]


def conclude(
    runs: Sequence[RunRecord],
    verdicts: Sequence[Verdict] | None = None,
    arms: tuple[str, str] | None = None,
    observed: str = "",
) -> Conclusions:
    """Return the headlines of the runs and the counts of their verdicts, as of `headlines`."""
    if runs and verdicts is None:
        verdicts = judge_all(runs, *(arms or compared(runs)))
    found = headlines(runs, verdicts, arms, observed)
    return Conclusions(tuple(found), counts(verdicts or ()))


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """{outcome: number of claims}, of those on which the runs say something, in a fixed order."""
    found = Counter(verdict.outcome for verdict in verdicts if verdict.values)
    return {outcome: found[outcome] for outcome in OUTCOMES} if found else {}


def counts_text(counted: Mapping[str, int]) -> str:
    """The counts in a line; a claim that these runs cannot tell is open."""
    words = {"cannot tell": "open"}
    return " · ".join(f"{count} {words.get(key, key)}" for key, count in counted.items() if count)


def passing(recordings: Mapping[str, Sequence[Recording]], layer: str | None = None) -> str:
    """Return a sentence on the share of a layer's outputs, in the last epoch, that lie where the
    activation behind it has a slope, for the first two arms; "" where it cannot be measured.

    Args:
        recordings: {arm: a recording per seed, in the same order of seeds}.
        layer: the layer; None, or one that no activation follows: the first that one follows.
    """
    chosen = list(recordings.items())[:2]
    if len(chosen) < 2 or not all(own for _, own in chosen):
        return ""
    shared = [
        name
        for name in layers_before_activations(chosen[0][1][0])
        if all(name in layers_before_activations(own) for _, each in chosen for own in each)
    ]
    if not shared:
        return ""
    layer = layer if layer in shared else shared[0]
    activation = chosen[0][1][0].layers[layer].activation
    values = [[_last_share(recording, layer) for recording in own] for _, own in chosen]
    if not np.isfinite([value for own in values for value in own]).all():
        return ""
    verb = "pass the ReLU" if activation == "relu" else f"lie where {activation} has a slope"
    words = with_each([arm for arm, _ in chosen])
    shares = [
        f"{np.mean(values[0]):.1f}% of the values of {layer} {verb} {words[0]}",
        f"{np.mean(values[1]):.1f}% {words[1]}",
    ]
    estimate = statistics.compare(*(dict(enumerate(own)) for own in values))
    sure = estimate_text(estimate, _settled(estimate))
    return f"In the last epoch {shares[0]}, {shares[1]} ({sure})."


def _last_share(recording: Recording, layer: str) -> float:
    """The share in percent; NaN where no output was recorded in the last epoch."""
    timeline = Timeline.of(recording)
    first, last = timeline.span(timeline.epochs)
    steps, _ = active_share(recording, layer)
    if not ((steps >= first) & (steps <= last)).any():
        return math.nan
    return 100 * measure_regions(recording, layer, first, last).active


@dataclass(frozen=True, eq=False)
class _Case:
    """One network on one data set, and the verdicts on it by their code."""

    evidence: Evidence
    verdicts: Mapping[str, Verdict]

    @cached_property
    def arms(self) -> tuple[str, str]:
        return self.evidence.norm, self.evidence.reference

    @cached_property
    def norms(self) -> list[str]:
        """Every normalization that has runs: the two that are judged first."""
        others = dict.fromkeys(run.norm for run in self.evidence.ended)
        return list(dict.fromkeys((*self.arms, *others)))

    @cached_property
    def runs(self) -> dict[str, dict[float, list[RunRecord]]]:
        """{arm: {rate: ended runs}}, other knobs at the value at which claims are judged."""
        return {norm: self._runs_of(norm) for norm in self.norms}

    def _runs_of(self, norm: str) -> dict[float, list[RunRecord]]:
        found: dict[float, list[RunRecord]] = {}
        for group in self.evidence.groups(lambda run: run.norm, (norm, norm)):
            for run in runs_of(group):
                found.setdefault(run.learning_rate, []).append(run)
        return dict(sorted(found.items()))

    @cached_property
    def accuracy(self) -> Verdict | None:
        """The verdict on the accuracy of the two arms, each at its own best rate."""
        return self._accuracy_of(self.arms[0])

    def _accuracy_of(self, norm: str) -> Verdict | None:
        """The verdict on an arm's accuracy against the reference; None where there is none."""
        own, other = (set(self.runs[arm]) for arm in (norm, self.arms[1]))
        if own != other:
            return None
        code = OWN_RATE if len(own) > 1 else EQUAL_SETTINGS
        if norm == self.arms[0]:
            verdict = self.verdicts.get(code)
        else:
            evidence = Evidence(self.evidence.runs, self.evidence.subject, norm, self.arms[1])
            verdict = next(claim for claim in claims() if claim.code == code).judge(evidence)
        return verdict if verdict is not None and verdict.n else None

    def losses(self) -> str:
        """Of text, the loss that the two arms reach at the rate at which each predicts best."""
        if self.evidence.runs[0].spec["model"] != TEXT_MODEL or not all(
            map(self.runs.get, self.arms)
        ):
            return ""
        at = {arm: self.runs[arm][self._best(arm)[1]] for arm in self.arms}
        values = [
            {run.seed: loss for run in runs if (loss := held_out_loss(run)) is not None}
            for runs in at.values()
        ]
        if not all(values):
            return ""
        means = [float(np.mean(list(own.values()))) for own in values]
        words = with_each(self.arms)
        estimate = statistics.compare(*values)
        found = nats_text(estimate, _settled(estimate))
        return (
            f"{means[0]:.3f} nats per byte {words[0]}, {means[1]:.3f} {words[1]} ({found}). "
            f"Guessing is {guessing_loss(self.evidence.runs[0]):.3f}."
        )

    def accuracies(self) -> str:
        """What each arm reaches, and the difference of the two that are judged."""
        missing = [arm for arm in self.arms if not self.runs[arm]]
        if len(missing) == 2 or not self.evidence.ended:
            return "No run has ended so far." if not self.evidence.ended else ""
        if all(self._all_diverged(arm) for arm in self.arms if arm not in missing):
            return self._only_diverged(missing)
        if missing:
            (arm,) = (arm for arm in self.arms if arm not in missing)
            value, rate, n = self._best(arm)
            return (
                f"{value:.1f}% accuracy {with_norm(arm)} at its best rate, {rate:g} "
                f"({seeds_text(n)}); no run {with_norm(missing[0])} has ended, so that nothing is "
                "compared."
            )
        return self._pair()

    def _only_diverged(self, missing: Sequence[str]) -> str:
        arms = [arm for arm in self.arms if arm not in missing]
        told = [f"{count_text(self._ended(arm))} {with_norm(arm)}" for arm in arms]
        return f"Every run diverged: {', '.join(told)}. Lower learning rates may not."

    def _pair(self) -> str:
        verdict = self.accuracy
        each, numbers = [], ""
        if verdict is not None:
            means = [float(np.mean(list(verdict.values[arm].values()))) for arm in self.arms]
            lead = self._lead(verdict.code == OWN_RATE, len(verdict.settings))
            each = [f"{means[0]:.1f}% accuracy", f"{means[1]:.1f}%"]
            numbers = verdict_text(verdict, self._neither_learned(means))
        else:
            best = [self._best(arm) for arm in self.arms]
            lead = self._lead(own=True, settings=0)
            first, second = ((f"{value:.1f}%", f"at {rate:g}") for value, rate, _ in best)
            each = [f"{first[0]} accuracy {first[1]}", " ".join(second)]
            estimate = self._at_best_rates([rate for _, rate, _ in best])
            neither = self._neither_learned([value for value, _, _ in best])
            numbers = estimate_text(estimate, neither or _settled(estimate))
        words = [
            f"every run diverged {words}" if self._all_diverged(arm) else f"{value} {words}"
            for arm, value, words in zip(self.arms, each, with_each(self.arms), strict=True)
        ]
        return f"{lead}: {words[0]}, {words[1]} ({numbers})."

    def _lead(self, own: bool, settings: int) -> str:
        rates = sorted({rate for arm in self.arms for rate in self.runs[arm]})
        lead = OWN_BEST if own and len(rates) > 1 else f"At learning rate {rates[0]:g}"
        return f"{lead}, mean of {settings} settings" if settings > 1 else lead

    def _neither_learned(self, means: Sequence[float]) -> str:
        run = self.evidence.ended[0]
        if max(means) >= 100 * learned_from(run):
            return ""
        return f"neither learns, guessing is {100 * chance(run):.0f}%"

    def other_arms(self) -> str:
        """What the arms reach that are not judged: each, or of many the best and the last."""
        if not all(self.runs[arm] for arm in self.arms):
            return ""
        others = [norm for norm in self.norms if norm not in self.arms and self.runs[norm]]
        found = {arm: verdict for arm in others if (verdict := self._accuracy_of(arm))}
        if len(others) + 2 > MOST_ARMS:
            return self._ranking(others, found)
        told = []
        for arm in others:
            if self._all_diverged(arm):
                told.append(f"every run diverged {with_norm(arm)}")
            elif arm in found:
                value = np.mean(list(found[arm].values[arm].values()))
                told.append(f"{value:.1f}% {with_norm(arm)} ({points(found[arm])})")
            else:
                told.append(
                    f"{self._best(arm)[0]:.1f}% {with_norm(arm)} ({seeds_text(self._best(arm)[2])})"
                )
        return f"Beside them, {', '.join(told)}." if told else ""

    def _ranking(self, others: Sequence[str], found: Mapping[str, Verdict]) -> str:
        """Best and last of many arms, and how many differ from the reference for certain."""
        arms = [*self.arms, *others]
        ranked = sorted(arms, key=lambda arm: -self._best(arm)[0])
        ends = [f"{name_of(arm)} ({self._best(arm)[0]:.1f}%)" for arm in (ranked[0], ranked[-1])]
        pair = {self.arms[0]: self.accuracy} if self.accuracy else {}
        estimates = [self._of_many(arm, verdict) for arm, verdict in (pair | dict(found)).items()]
        sure = [estimate.sign > 0 for estimate in estimates if estimate.sign]
        return (
            f"Of all {len(arms)}, {ends[0]} is best and {ends[1]} last; {sum(sure)} of "
            f"{len(arms) - 1} are better than {name_of(self.arms[1])} for certain, "
            f"{len(sure) - sum(sure)} worse (together 95%)."
        )

    def _of_many(self, arm: str, verdict: Verdict) -> Estimate:
        """An arm's difference from the reference, as one of as many tests as there are arms."""
        own, other = (verdict.values[each] for each in (arm, self.arms[1]))
        return statistics.compare(own, other, tests=len(self.norms) - 1)

    def rates(self) -> str:
        """The rate at which one arm learns and the other does not, and the range each tolerates."""
        rates = sorted(set(self.runs[self.arms[0]]) & set(self.runs[self.arms[1]]))
        if len(rates) < 2 or all(self._all_diverged(arm) for arm in self.arms):
            return ""
        learnt = [sum(self._learns(arm, rate) for rate in rates) for arm in self.arms]
        if 0 in learnt:
            return self._learns_at_none(learnt, len(rates))
        parts = list(filter(None, (self._learns_alone(rates), self._tolerance(rates))))
        if not parts and min(learnt) == len(rates):
            return f"Both learn at each of the {len(rates)} rates."
        return f"{'; '.join(parts)}." if parts else ""

    def _learns_at_none(self, learnt: Sequence[int], of: int) -> str:
        if not any(learnt):
            return ""  # said beside the accuracies
        arms = self.arms if learnt[0] else (self.arms[1], self.arms[0])
        return (
            f"The network learns {with_norm(arms[0])} at {max(learnt)} of {of} rates, "
            f"{with_norm(arms[1])} at none."
        )

    def _learns_alone(self, rates: Sequence[float]) -> str:
        gaps = {
            rate: self._mean(self.arms[0], rate) - self._mean(self.arms[1], rate)
            for rate in rates
            if self._learns(self.arms[0], rate) != self._learns(self.arms[1], rate)
        }
        if not gaps:
            return ""
        rate = max(gaps, key=lambda rate: abs(gaps[rate]))
        arms = self.arms if gaps[rate] > 0 else (self.arms[1], self.arms[0])
        learner, other = arms
        without = (
            "every run diverges"
            if all(run.status == "diverged" for run in self.runs[other][rate])
            else f"{self._mean(other, rate):.0f}%"
        )
        return (
            f"At rate {rate:g} the network learns {with_norm(learner)} "
            f"({self._mean(learner, rate):.0f}%), not {with_norm(other)} ({without})"
        )

    def _tolerance(self, rates: Sequence[float]) -> str:
        verdict = self.verdicts.get(TOLERANCE)
        if verdict is None or not verdict.n or verdict.interval is None:
            return ""
        grid = math.log10(rates[-1] / rates[0])
        spans = []
        for arm in self.arms:
            decades = float(np.mean(list(verdict.values[arm].values())))
            whole = "all of the " if decades >= grid - 1e-9 else "a "
            spans.append(
                f"{whole}×{float(f'{10**decades:.2g}'):g} range" if decades > 0 else "one rate"
            )
        words = with_each(self.arms)
        return (
            f"{'it' if self._learns_alone(rates) else 'The network'} tolerates {spans[0]} of rates "
            f"{words[0]}, {spans[1]} {words[1]} ({verdict_text(verdict)})"
        ).replace("one rate of rates", "one rate")

    def contrary(self) -> str:
        """The contradicted claims that are surest."""
        told = {EQUAL_SETTINGS, OWN_RATE} if self.accuracy else set[str]()
        found = [
            verdict
            for verdict in self.verdicts.values()
            if verdict.outcome == "contradicted" and verdict.code not in told
        ]
        found.sort(key=_sureness, reverse=True)
        if not found:
            return ""
        parts = [
            CONTRARY[verdict.code].format(with_norm=with_norm(self.arms[0]))
            + f" ({effect_text(verdict.effect, verdict.unit, verdict.interval)}, "
            f"{seeds_text(verdict.n)})"
            for verdict in found[:MOST_CONTRARY]
        ]
        more = len(found) - len(parts)
        return f"Against common belief, {'; '.join(parts)}{f'; {more} more below' if more else ''}."

    def settle(self) -> str:
        """What would settle what is open: the accuracy first, else the claim that needs least."""
        if not self.evidence.ended or any(not self.runs[arm] for arm in self.arms):
            return ""
        if all(self._all_diverged(arm) for arm in self.arms):
            return ""
        seeds = max(len({run.seed for run in self._ended(arm)}) for arm in self.arms)
        verdict = self.accuracy
        if verdict is None:
            more = max(0, LEAST_PAIRS - seeds)
            return f"To settle it, train with --seeds {seeds + more}." if more else ""
        if verdict.outcome == "cannot tell":
            if verdict.more_seeds is not None:
                return f"To settle it, train with --seeds {seeds + verdict.more_seeds}."
            return f"To settle it: {verdict.needs}." if verdict.needs else ""
        return self._settle_others(seeds)

    def _settle_others(self, seeds: int) -> str:
        open_ones = [
            verdict
            for verdict in self.verdicts.values()
            if verdict.outcome == "cannot tell" and verdict.values
        ]
        countable = [verdict.more_seeds for verdict in open_ones if verdict.more_seeds]
        if not countable:
            return ""
        least = min(countable)
        easiest = [
            f"{each.code} ({each.name.replace('-', ' ')})"
            for each in open_ones
            if each.more_seeds == least
        ]
        return (
            f"{count_text(open_ones, 'claim')} open; --seeds {seeds + least} would probably settle "
            f"{' and '.join(easiest)}."
        )

    def _ended(self, arm: str) -> list[RunRecord]:
        return [run for runs in self.runs[arm].values() for run in runs]

    def _all_diverged(self, arm: str) -> bool:
        return all(run.status == "diverged" for run in self._ended(arm))

    def _learns(self, arm: str, rate: float) -> bool:
        return self._mean(arm, rate) >= 100 * learned_from(self.evidence.ended[0])

    def _mean(self, arm: str, rate: float) -> float:
        """Mean accuracy in percent, a diverged run counted as guessing; NaN where none is known."""
        values = [value for run in self.runs[arm][rate] if (value := accuracy(run)) is not None]
        return float(np.mean(values)) if values else math.nan

    def _best(self, arm: str) -> tuple[float, float, int]:
        """(mean accuracy, rate, number of seeds) of an arm at the rate with the highest mean."""
        rate = max(self.runs[arm], key=lambda rate: np.nan_to_num(self._mean(arm, rate), nan=-1.0))
        return self._mean(arm, rate), rate, len({run.seed for run in self.runs[arm][rate]})

    def _at_best_rates(self, rates: Sequence[float]) -> Estimate:
        values = [
            {run.seed: accuracy(run) or 0.0 for run in self.runs[arm][rate]}
            for arm, rate in zip(self.arms, rates, strict=True)
        ]
        return statistics.compare(*values)


def _settled(estimate: Estimate) -> str:
    if not estimate.sign:
        return "not settled"
    return "settled" if estimate.n >= FIRM_FROM else "settled, provisionally"


def _sureness(verdict: Verdict) -> float:
    """How many half widths of its interval an effect is away from none, of ratios on their log."""
    if verdict.interval is None or verdict.effect is None:
        return 0.0
    numbers = (verdict.effect, verdict.neutral, *verdict.interval)
    if verdict.neutral == 1 and min(numbers) > 0:
        numbers = tuple(math.log(number) for number in numbers)
    effect, neutral, low, high = numbers
    return abs(effect - neutral) / (high - low) if high > low else math.inf
