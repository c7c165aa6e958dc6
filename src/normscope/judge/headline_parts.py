"""The parts of a headline: what is read of a network's runs and verdicts, and the words for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from normscope.judge import statistics
from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence, runs_of
from normscope.judge.evidence.quantities import accuracy, learned_from
from normscope.judge.statistics import FIRM_FROM, LEAST_PAIRS, Estimate
from normscope.judge.verdicts import Verdict, effect_text
from normscope.records.run import RunRecord
from normscope.words import plural

EQUAL_SETTINGS, OWN_RATE, TOLERANCE = "C201", "C202", "C501"
"""The claims that the sentences on accuracy and on learning rates are made of."""


@dataclass(frozen=True, eq=False)
class Case:
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
        return {norm: self._runs_by_rate(norm) for norm in self.norms}

    def _runs_by_rate(self, norm: str) -> dict[float, list[RunRecord]]:
        found: dict[float, list[RunRecord]] = {}
        for group in self.evidence.groups(lambda run: run.norm, (norm, norm)):
            for run in runs_of(group):
                found.setdefault(run.learning_rate, []).append(run)
        return dict(sorted(found.items()))

    @cached_property
    def accuracy(self) -> Verdict | None:
        """The verdict on the accuracy of the two arms, each at its own best rate."""
        return self.accuracy_of(self.arms[0])

    def accuracy_of(self, norm: str) -> Verdict | None:
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

    def ended(self, arm: str) -> list[RunRecord]:
        """The ended runs of an arm."""
        return [run for runs in self.runs[arm].values() for run in runs]

    def all_diverged(self, arm: str) -> bool:
        """Tell whether every ended run of an arm diverged."""
        return all(run.status == "diverged" for run in self.ended(arm))

    def learns(self, arm: str, rate: float) -> bool:
        """Tell whether an arm learns at a rate, on average."""
        return self.mean(arm, rate) >= 100 * learned_from(self.evidence.ended[0])

    def mean(self, arm: str, rate: float) -> float:
        """Mean accuracy in percent, a diverged run counted as guessing; NaN where none is known."""
        return mean_accuracy(self.runs[arm][rate])

    def best(self, arm: str) -> tuple[float, float, int]:
        """(mean accuracy, rate, number of seeds) of an arm at the rate with the highest mean."""
        rate = max(self.runs[arm], key=lambda rate: np.nan_to_num(self.mean(arm, rate), nan=-1.0))
        return self.mean(arm, rate), rate, len({run.seed for run in self.runs[arm][rate]})

    def at_best_rates(self, rates: Sequence[float]) -> Estimate:
        """Compare the arms, each at a rate of its own, seed by seed."""
        chosen = [self.runs[arm][rate] for arm, rate in zip(self.arms, rates, strict=True)]
        values = [
            {run.seed: value for run in runs if (value := accuracy(run)) is not None}
            for runs in chosen
        ]
        return statistics.compare(*values)

    @cached_property
    def unlike(self) -> str:
        """Why a difference of the arms says nothing, where more than norm and rate differs."""
        first, second = (self._settings_of(arm) for arm in self.arms)
        return "" if first & second else "other settings differ too, so that nothing is tested"

    def _settings_of(self, norm: str) -> set[str]:
        groups = self.evidence.groups(lambda run: run.norm, (norm, norm), ("learning_rate",))
        return {json.dumps(group.setting, sort_keys=True) for group in groups}


def mean_accuracy(runs: Iterable[RunRecord]) -> float:
    """Mean accuracy in percent, a diverged run counted as guessing; NaN where none is known."""
    values = [value for run in runs if (value := accuracy(run)) is not None]
    return float(np.mean(values)) if values else math.nan


def settled(estimate: Estimate) -> str:
    """A word on how sure a difference is."""
    if not estimate.sign:
        return "not settled"
    return "settled" if estimate.n >= FIRM_FROM else "settled, provisionally"


def estimate_text(estimate: Estimate, word: str) -> str:
    """A difference in points with its interval, n, and a word on how sure it is."""
    if not estimate.n:
        return "no seed in common, so that nothing is tested"
    return _with_interval(estimate.effect, "points", estimate.interval, estimate.n, word)


def nats_text(estimate: Estimate, word: str) -> str:
    """A difference of losses in nats with its interval, n, and a word on how sure it is."""
    if not estimate.n:
        return "no seed in common, so that nothing is tested"
    effect = effect_text(estimate.effect, "nats", estimate.interval)
    few = estimate.n < LEAST_PAIRS
    return (
        f"{effect}; {seeds_text(estimate.n)}{', too few for an interval' if few else f': {word}'}"
    )


def verdict_text(verdict: Verdict, instead: str = "") -> str:
    """A verdict's effect with its interval, n, and the outcome in words, or others `instead`."""
    word = {
        "supported": "settled",
        "contradicted": "settled, against common belief",
        "negligible": f"negligible, within ±{verdict.margin:g}",
        "no difference": f"no difference beyond ±{verdict.margin:g}",
        "cannot tell": "not settled",
    }[verdict.outcome]
    if verdict.provisional:
        word = f"{word}, provisionally"
    effect = verdict.effect if verdict.effect is not None else math.nan
    return _with_interval(effect, verdict.unit, verdict.interval, verdict.n, instead or word)


def _with_interval(
    effect: float, unit: str, interval: tuple[float, float] | None, n: int, word: str
) -> str:
    if n < LEAST_PAIRS:
        return f"{_signed(effect)} {unit}; {seeds_text(n)}, too few for an interval"
    return f"{_signed(effect)} {unit}{_ends(interval)}, {seeds_text(n)}: {word}"


def points(verdict: Verdict) -> str:
    """A verdict's effect in points with its interval."""
    return f"{_signed(verdict.effect or 0.0)} points{_ends(verdict.interval)}"


def _ends(interval: tuple[float, float] | None) -> str:
    return f" [{_signed(interval[0])}, {_signed(interval[1])}]" if interval else ""


def _signed(value: float) -> str:
    """One decimal with its sign; what rounds to nothing has none."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def name_of(arm: str) -> str:
    """A normalization in words."""
    if arm == "none":
        return "the plain network"
    usual = ("batch", "group", "layer", "instance", "noisy-batch", "ghost-batch")
    return f"{arm.replace('-', ' ')} norm" if arm in usual else arm


def with_norm(arm: str) -> str:
    """An arm at the end of a phrase."""
    return "without normalization" if arm == "none" else f"with {name_of(arm)}"


def with_each(arms: Sequence[str]) -> list[str]:
    """Each arm at the end of a phrase; where one is named, the one without needs no more words."""
    return [with_norm(arms[0]), "without" if arms[1] == "none" else with_norm(arms[1])]


def seeds_text(count: int) -> str:
    """A number of seeds."""
    return plural(count, "seed")


def count_text(items: Sequence[Any], word: str = "run") -> str:
    """The number of items with the word for one of them."""
    return plural(len(items), word)
