"""The values of one quantity by setting, arm and seed, their differences, and what to warn of."""

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

    def __init__(
        self,
        value: Value,
        groups: Sequence[Group],
        arms: tuple[str, str],
        ratio: bool,
        compare: Callable[..., Estimate] = statistics.compare,
    ):
        self._arms, self._ratio, self._compare = arms, ratio, compare
        self._values: dict[Group, dict[str, dict[int, float]]] = {}  # {setting: {arm: {seed: x}}}
        every: list[tuple[Group, dict[str, dict[int, float | None]]]] = []
        for group in groups:
            cells = {arm: group.arms[arm].items() for arm in arms}
            of = {arm: {seed: value(cell) for seed, cell in cells[arm]} for arm in arms}
            finite = {arm: _finite(values, ratio) for arm, values in of.items()}
            every.append((group, of))
            if all(finite.values()):
                self._values[group] = finite
        self.non_finite: tuple[str, ...] = _non_finite_runs(every)
        """Runs whose value is infinite, in words."""
        self._seeds = self._common_seeds()

    @property
    def groups(self) -> list[Group]:
        """The settings at which both arms have a value."""
        return list(self._values)

    def estimate(self, resolution: float) -> Estimate:
        """Estimate the mean difference over the settings."""
        if len(self._values) == 1:
            return self.estimate_of(self.groups[0], resolution)
        first, second = (
            {seed: self._mean(arm, seed) for seed in self._seeds} for arm in self._arms
        )
        return self._compare(first, second, resolution=resolution)

    def estimate_of(self, group: Group, resolution: float, tests: int = 1) -> Estimate:
        """Estimate the difference at a setting, one of so many."""
        first, second = self._values[group].values()
        return self._compare(first, second, resolution=resolution, tests=tests)

    def values(self) -> dict[str, dict[int, float]]:
        """Return {arm: {seed: mean over the settings}} of the estimate, without logarithms."""
        shown = math.exp if self._ratio else float
        single = next(iter(self._values.values())) if len(self._values) == 1 else None
        if single and (statistics.is_unpaired(*single.values()) or not self._seeds):
            return {arm: {seed: shown(x) for seed, x in of.items()} for arm, of in single.items()}
        return {
            arm: {seed: shown(self._mean(arm, seed)) for seed in self._seeds} for arm in self._arms
        }

    def seeds(self, group: Group) -> dict[str, set[int]]:
        """Return {arm: seeds that have a value at a setting}."""
        return {arm: set(values) for arm, values in self._values[group].items()}

    def improvement(
        self, higher_is_better: bool
    ) -> tuple[float | None, tuple[float, float] | None]:
        """Return the probability that a run of the first arm is better than one of the second, and
        its interval.
        """
        first, second = (list(seeds.values()) for seeds in self.values().values())
        if not higher_is_better:
            first, second = second, first
        share = statistics.probability_of_improvement(first, second)
        if share is None or min(len(first), len(second)) < LEAST_PAIRS:
            return share, None
        return share, statistics.improvement_interval(share, len(first), len(second))

    def _common_seeds(self) -> list[int]:
        """Seeds that both arms have at every setting, of the settings that were not just begun."""
        pairs = {
            group: set.intersection(*map(set, of.values())) for group, of in self._values.items()
        }
        enough = min(LEAST_PAIRS, max((len(seeds) for seeds in pairs.values()), default=0))
        kept = {group: seeds for group, seeds in pairs.items() if len(seeds) >= max(enough, 1)}
        if kept:
            self._values = {group: self._values[group] for group in kept}
        return sorted(set.intersection(*kept.values())) if kept else []

    def _mean(self, arm: str, seed: int) -> float:
        return float(np.mean([of[arm][seed] for of in self._values.values()]))


def warnings_on(
    summary: Summary, groups: Sequence[Group], dead: Sequence[Group], learners: dict[str, str]
) -> tuple[str, ...]:
    """Return notes on the settings that do not count, among them those at which an arm is dead, and
    on arms that did not learn at others.
    """
    notes = []
    if held := ", ".join(summary.groups[0].held):
        notes.append(f"Judged at {held} only; other values are in this study for other claims.")
    if dead:
        named = (f"{group.label} ({', '.join(idle(group, learners))})" for group in dead)
        notes.append(f"Left out, as the network did not learn there: {'; '.join(named)}.")
    judged = summary.groups
    few = [group.label for group in groups if group not in judged and any(group.arms.values())]
    if few:
        reason = "as too few runs of both arms give the quantity there"
        notes.append(f"Left out, {reason}: {'; '.join(few)}.")
    for group in summary.groups:
        if not summary.non_finite:
            notes += _without_value(summary, group)
        notes += [
            f"{arm} did not learn{group.where}: its mean accuracy is hardly above guessing."
            for arm in idle(group, learners)
        ]
    return tuple(notes)


def idle(group: Group, learners: dict[str, str]) -> list[str]:
    """Return the arms that did not learn at a setting, in the words of {arm: words}."""
    return [words for arm, words in learners.items() if not has_learned(group.arms[arm].values())]


def settings_to_learn_at(groups: Sequence[Group], learners: dict[str, str]) -> str:
    """Say what is needed where no setting is left."""
    where = [f"{' and '.join(idle(group, learners))} not{group.where}" for group in groups]
    verb = "learn" if len(learners) > 1 else "learns"
    return f"a setting at which {' and '.join(learners.values())} {verb}: here {'; '.join(where)}"


def _without_value(summary: Summary, group: Group) -> list[str]:
    """Notes on seeds without a value: an arm judged by its survivors looks better than it is."""
    notes = []
    for arm, seeds in summary.seeds(group).items():
        gone = [cell for seed, cell in group.arms[arm].items() if seed not in seeds]
        diverged = [cell for cell in gone if any(run.status == "diverged" for run in cell.runs)]
        untaught = [cell for cell in gone if cell not in diverged and not has_learned([cell])]
        if gone:
            note = f"{len(gone)} of {len(group.arms[arm])} seeds of {arm}{group.where}"
            note += " give no value"
            note += f", {len(diverged)} of them diverged" if diverged else ""
            note += f", {len(untaught)} of them did not learn" if untaught else ""
            notes.append(f"{note}: the verdict is on the others.")
    return notes


def _finite(values: dict[int, float | None], ratio: bool) -> dict[int, float]:
    finite = {seed: x for seed, x in values.items() if x is not None and math.isfinite(x)}
    return {seed: math.log(x) for seed, x in finite.items() if x > 0} if ratio else finite


def _non_finite_runs(
    every: Sequence[tuple[Group, dict[str, dict[int, float | None]]]],
) -> tuple[str, ...]:
    """The runs whose value is beyond any number, at settings that both arms have."""
    return tuple(
        f"{arm} seed {seed}{group.where}"
        for group, of in every
        if all(of.values())
        for arm, values in of.items()
        for seed, x in values.items()
        if x is not None and not math.isfinite(x)
    )
