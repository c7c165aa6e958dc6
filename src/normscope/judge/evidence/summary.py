"""The values of one quantity by setting, arm and seed, the differences between them, and what a reader is warned of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from normscope.judge import statistics
from normscope.judge.evidence.cells import GridCell, Group
from normscope.judge.evidence.quantities import has_learned
from normscope.judge.statistics import LEAST_PAIRS, Estimate

Value = Callable[[GridCell], float | None]


class Summary:
    """The values of one quantity by setting, arm and seed."""

    def __init__(self, value: Value, groups: Sequence[Group], arms: tuple[str, str], ratio: bool):
        self._arms, self._ratio = arms, ratio
        read = [
            (
                group,
                {
                    arm: {seed: value(cell) for seed, cell in group.arms[arm].items()}
                    for arm in arms
                },
            )
            for group in groups
        ]
        found = [
            (group, {arm: _known(values, ratio) for arm, values in of.items()})
            for group, of in read
        ]
        self._found = [(group, of) for group, of in found if of[arms[0]] and of[arms[1]]]
        self.non_finite: tuple[str, ...] = _non_finite_runs(read)
        """Runs whose value is infinite, in words."""
        self._seeds = self._common_seeds()

    @property
    def groups(self) -> list[Group]:
        """The settings at which both arms have a value."""
        return [group for group, _ in self._found]

    def estimate(self, margin: float, resolution: float) -> Estimate:
        """The mean difference over the settings, paired by seed; without seeds in common, of arms
        at one setting.
        """
        if len(self._found) == 1:
            return self.estimate_of(self._found[0][0], margin, resolution)
        differences = [
            self._mean(self._arms[0], seed) - self._mean(self._arms[1], seed)
            for seed in self._seeds
        ]
        return statistics.paired(differences, margin, resolution=resolution)

    def estimate_of(
        self, group: Group, margin: float, resolution: float, tests: int = 1
    ) -> Estimate:
        """The difference at one setting: paired where three seeds are shared, else Welch."""
        first, second = (
            next(of for other, of in self._found if other is group)[arm] for arm in self._arms
        )
        seeds = sorted(set(first) & set(second))
        if _is_unpaired(first, second):
            return statistics.welch(
                list(first.values()), list(second.values()), margin, resolution=resolution
            )
        differences = [first[seed] - second[seed] for seed in seeds]
        return statistics.paired(differences, margin, resolution=resolution, tests=tests)

    def values(self) -> dict[str, dict[int, float]]:
        """{arm: {seed: mean over the settings}} of what the estimate is made of, without
        logarithms.
        """
        shown = math.exp if self._ratio else float
        if len(self._found) == 1 and (_is_unpaired(*self._found[0][1].values()) or not self._seeds):
            return {
                arm: {seed: shown(x) for seed, x in self._found[0][1][arm].items()}
                for arm in self._arms
            }
        return {
            arm: {seed: shown(self._mean(arm, seed)) for seed in self._seeds} for arm in self._arms
        }

    def known(self, group: Group) -> dict[str, set[int]]:
        """{arm: seeds that have a value at a setting}."""
        return {
            arm: set(values)
            for other, of in self._found
            if other is group
            for arm, values in of.items()
        }

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


def warnings_on(
    summary: Summary, groups: Sequence[Group], dead: Sequence[Group], learners: dict[str, str]
) -> tuple[str, ...]:
    """Settings that do not count, those for which an arm is dead among them, and arms that did not
    learn at others.
    """
    held = summary.groups[0].held
    notes = (
        [f"Judged at {', '.join(held)} only; other values are in this study for other claims."]
        if held
        else []
    )
    if dead:
        named = (f"{group.label} ({', '.join(idle(group, learners))})" for group in dead)
        notes.append(f"Left out, as the network did not learn there: {'; '.join(named)}.")
    short = [
        group.label for group in groups if group not in summary.groups and any(group.arms.values())
    ]
    if short:
        notes.append(
            f"Left out, as too few runs of both arms give the quantity there: {'; '.join(short)}."
        )
    for group in summary.groups:
        if not summary.non_finite:
            notes += _without_value(summary, group)
        notes += [
            f"{arm} did not learn{group.where}: its mean accuracy is hardly above guessing."
            for arm in idle(group, learners)
        ]
    return tuple(notes)


def idle(group: Group, learners: dict[str, str]) -> list[str]:
    """Arms that did not learn at a setting, in the words that {arm: words} has for them."""
    return [words for arm, words in learners.items() if not has_learned(group.arms[arm].values())]


def settings_to_learn_at(groups: Sequence[Group], learners: dict[str, str]) -> str:
    """What is needed where no setting is left."""
    where = [f"{' and '.join(idle(group, learners))} not{group.where}" for group in groups]
    return f"a setting at which {' and '.join(learners.values())} learn: here {'; '.join(where)}"


def _without_value(summary: Summary, group: Group) -> list[str]:
    """Seeds that are left out for want of a value: an arm that is judged by its survivors looks
    better than it is.
    """
    notes = []
    for arm, known in summary.known(group).items():
        gone = [cell for seed, cell in group.arms[arm].items() if seed not in known]
        diverged = [cell for cell in gone if any(run.status == "diverged" for run in cell.runs)]
        untaught = [cell for cell in gone if cell not in diverged and not has_learned([cell])]
        if gone:
            seeds = (
                f"{len(gone)} of {len(group.arms[arm])} seeds of {arm}{group.where} give no value"
            )
            told = f", {len(diverged)} of them diverged" if diverged else ""
            told += f", {len(untaught)} of them did not learn" if untaught else ""
            notes.append(f"{seeds}{told}: the verdict is on the others.")
    return notes


def _known(values: dict[int, float | None], ratio: bool) -> dict[int, float]:
    known = {seed: x for seed, x in values.items() if x is not None and math.isfinite(x)}
    return {seed: math.log(x) for seed, x in known.items() if x > 0} if ratio else known


def _non_finite_runs(
    read: Sequence[tuple[Group, dict[str, dict[int, float | None]]]],
) -> tuple[str, ...]:
    """The runs whose value is known to be beyond any number, at settings that both arms have."""
    return tuple(
        f"{arm} seed {seed}{group.where}"
        for group, of in read
        if all(of.values())
        for arm, values in of.items()
        for seed, x in values.items()
        if x is not None and not math.isfinite(x)
    )


def _is_unpaired(first: dict[int, float], second: dict[int, float]) -> bool:
    """Whether two arms are compared as independent samples: they share too few seeds and have
    enough of their own.
    """
    return len(set(first) & set(second)) < LEAST_PAIRS <= min(len(first), len(second))
