"""The sentences of a headline, each composed by rules; one that the runs do not allow is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from normscope.judge import statistics
from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import USUAL, runs_of
from normscope.judge.evidence.quantities import chance, guessing_loss, held_out_loss, learned_from
from normscope.judge.headline_parts import (
    EQUAL_SETTINGS,
    OWN_RATE,
    TOLERANCE,
    Case,
    count_text,
    estimate_text,
    mean_accuracy,
    name_of,
    nats_text,
    points,
    seeds_text,
    settled,
    verdict_text,
    with_each,
    with_norm,
)
from normscope.judge.statistics import LEAST_PAIRS, Estimate
from normscope.judge.verdicts import Verdict, effect_text
from normscope.records.run_description import TEXT_MODEL

OWN_BEST = "At its own best rate each"

MOST_CONTRARY = 2
"""Contradicted claims that are named; of the others there is a count."""

MOST_ARMS = 4
"""Arms that are named with their numbers; of more, the best, the last and counts."""


class Sentences(Case):
    """What is said of one network on one data set."""

    def losses(self) -> str:
        """Of text, the loss that the two arms reach at the rate at which each predicts best."""
        if self.evidence.runs[0].spec["model"] != TEXT_MODEL or not all(
            map(self.runs.get, self.arms)
        ):
            return ""
        at = {arm: self.runs[arm][self.best(arm)[1]] for arm in self.arms}
        values = [
            {run.seed: loss for run in runs if (loss := held_out_loss(run)) is not None}
            for runs in at.values()
        ]
        if not all(values):
            return ""
        means = [float(np.mean(list(own.values()))) for own in values]
        words = with_each(self.arms)
        estimate = statistics.compare(*values)
        found = self.unlike or nats_text(estimate, settled(estimate))
        return (
            f"{means[0]:.3f} nats per byte {words[0]}, {means[1]:.3f} {words[1]} ({found}). "
            f"Guessing is {guessing_loss(self.evidence.runs[0]):.3f}."
        )

    def accuracies(self) -> str:
        """What each arm reaches, and the difference of the two that are judged."""
        missing = [arm for arm in self.arms if not self.runs[arm]]
        if len(missing) == 2 or not self.evidence.ended:
            return "No run has ended so far." if not self.evidence.ended else ""
        if all(self.all_diverged(arm) for arm in self.arms if arm not in missing):
            return self._only_diverged(missing)
        if missing:
            (arm,) = (arm for arm in self.arms if arm not in missing)
            if all(run.norm != missing[0] for run in self.evidence.runs):
                return self._by_setting(arm)
            value, rate, n = self.best(arm)
            return (
                f"{value:.1f}% accuracy {with_norm(arm)} at its best rate, {rate:g} "
                f"({seeds_text(n)}); no run {with_norm(missing[0])} has ended, so that nothing is "
                "compared."
            )
        return self._pair()

    def _by_setting(self, arm: str) -> str:
        """What one normalization reaches at its best and at its worst setting, where nobody asked
        for the other.
        """
        groups = self.evidence.groups(lambda run: run.norm, (arm, arm), across=tuple(USUAL))
        found = ((mean_accuracy(runs_of(group)), group.label, group) for group in groups)
        ranked = sorted(each for each in found if not math.isnan(each[0]))
        if not ranked:
            return ""
        (low, worst, _), (high, best, group) = ranked[0], ranked[-1]
        reached = f"{high:.1f}% accuracy {with_norm(arm)}"
        seeds = seeds_text(len({run.seed for run in runs_of(group)}))
        if len(ranked) == 1:
            return f"{reached} ({seeds}); there is nothing that it is compared with."
        return (
            f"{reached} at the best of {len(ranked)} settings, {best} ({seeds}); {low:.1f}% at "
            f"the worst, {worst}."
        )

    def _only_diverged(self, missing: Sequence[str]) -> str:
        arms = [arm for arm in self.arms if arm not in missing]
        told = [f"{count_text(self.ended(arm))} {with_norm(arm)}" for arm in arms]
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
            best = [self.best(arm) for arm in self.arms]
            lead = self._lead(own=True, settings=0)
            first, second = (
                ("unknown" if math.isnan(value) else f"{value:.1f}%", f"at {rate:g}")
                for value, rate, _ in best
            )
            each = [f"{first[0]} accuracy {first[1]}", " ".join(second)]
            estimate = self.at_best_rates([rate for _, rate, _ in best])
            neither = self._neither_learned([value for value, _, _ in best])
            numbers = self.unlike or estimate_text(estimate, neither or settled(estimate))
        words = [
            f"every run diverged {words}" if self.all_diverged(arm) else f"{value} {words}"
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
        found = {arm: verdict for arm in others if (verdict := self.accuracy_of(arm))}
        if len(others) + 2 > MOST_ARMS:
            return self._ranking(others, found)
        told = []
        for arm in others:
            if self.all_diverged(arm):
                told.append(f"every run diverged {with_norm(arm)}")
            elif arm in found:
                value = np.mean(list(found[arm].values[arm].values()))
                told.append(f"{value:.1f}% {with_norm(arm)} ({points(found[arm])})")
            else:
                told.append(
                    f"{self.best(arm)[0]:.1f}% {with_norm(arm)} ({seeds_text(self.best(arm)[2])})"
                )
        return f"Beside them, {', '.join(told)}." if told else ""

    def _ranking(self, others: Sequence[str], found: Mapping[str, Verdict]) -> str:
        """Best and last of many arms, and how many differ from the reference for certain."""
        arms = [*self.arms, *others]
        ranked = sorted(arms, key=lambda arm: -self.best(arm)[0])
        ends = [f"{name_of(arm)} ({self.best(arm)[0]:.1f}%)" for arm in (ranked[0], ranked[-1])]
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
        if len(rates) < 2 or all(self.all_diverged(arm) for arm in self.arms):
            return ""
        learnt = [sum(self.learns(arm, rate) for rate in rates) for arm in self.arms]
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
            rate: self.mean(self.arms[0], rate) - self.mean(self.arms[1], rate)
            for rate in rates
            if self.learns(self.arms[0], rate) != self.learns(self.arms[1], rate)
        }
        if not gaps:
            return ""
        rate = max(gaps, key=lambda rate: abs(gaps[rate]))
        arms = self.arms if gaps[rate] > 0 else (self.arms[1], self.arms[0])
        learner, other = arms
        without = (
            "every run diverges"
            if all(run.status == "diverged" for run in self.runs[other][rate])
            else f"{self.mean(other, rate):.0f}%"
        )
        return (
            f"At rate {rate:g} the network learns {with_norm(learner)} "
            f"({self.mean(learner, rate):.0f}%), not {with_norm(other)} ({without})"
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
            Claim.registry[verdict.code].contrary.format(with_norm=with_norm(self.arms[0]))
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
        if all(self.all_diverged(arm) for arm in self.arms):
            return ""
        seeds = max(len({run.seed for run in self.ended(arm)}) for arm in self.arms)
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


def _sureness(verdict: Verdict) -> float:
    """How many half widths of its interval an effect is away from none, of ratios on their log."""
    if verdict.interval is None or verdict.effect is None:
        return 0.0
    numbers = (verdict.effect, verdict.neutral, *verdict.interval)
    if verdict.neutral == 1 and min(numbers) > 0:
        numbers = tuple(math.log(number) for number in numbers)
    effect, neutral, low, high = numbers
    return abs(effect - neutral) / (high - low) if high > low else math.inf
