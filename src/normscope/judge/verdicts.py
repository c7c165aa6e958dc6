"""What a claim came to: the verdict, the numbers behind it, and what would settle it where it is open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["supported", "contradicted", "no difference", "cannot tell"]

OUTCOMES: tuple[Outcome, ...] = ("supported", "contradicted", "no difference", "cannot tell")


@dataclass(frozen=True)
class Source:
    """Where a claim is made, or disputed."""

    title: str
    link: str


@dataclass(frozen=True)
class EffectEstimate:
    """One difference between the arms, in the claim's unit: the first arm's minus (or over) the
    second's.
    """

    label: str  # the setting, or the quantity
    unit: str
    effect: float | None
    interval: tuple[float, float] | None  # covers 95%
    n: int
    p: float | None  # of no difference, two-sided; adjusted where it is one of several
    outcome: Outcome | None = None  # None for a quantity that only accompanies

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for what is missing or infinite."""
        return {
            "label": self.label,
            "unit": self.unit,
            "effect": finite(self.effect),
            "interval": _interval(self.interval),
            "n": self.n,
            "p": finite(self.p),
            "verdict": self.outcome,
        }


@dataclass(frozen=True)
class Verdict:
    """A claim judged on the runs of one network on one data set."""

    code: str
    name: str
    statement: str
    source: Source
    subject: str  # which network on which data
    outcome: Outcome
    quantity: str
    unit: str
    arms: tuple[str, str]
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    p: float | None = None
    test: str = ""
    margin: float = 0.0
    neutral: float = 0.0  # the effect that is no effect: 0 of a difference, 1 of a ratio
    improvement: float | None = None  # probability that a run of the first arm is the better one
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # {arm: {seed: value}}
    needs: str = ""  # what would settle it
    more_seeds: int | None = None  # how many more seeds probably would, where seeds are what lacks
    settings: tuple[
        EffectEstimate, ...
    ] = ()  # the same difference at each setting, where there are several
    also: tuple[EffectEstimate, ...] = ()  # quantities that accompany the one that decides
    notes: tuple[str, ...] = ()

    @property
    def averaged(self) -> str:
        """Over which settings the effect is a mean, in words; empty where there is but one."""
        labels = [reading.label for reading in self.settings]
        if not labels:
            return ""
        if all(label.startswith("lr ") and "," not in label for label in labels):
            rates = ", ".join(label.removeprefix("lr ") for label in labels)
            return f"mean over learning rates {rates}"
        return f"mean over {len(labels)} settings: {'; '.join(labels)}"

    def to_json(self) -> dict[str, Any]:
        """An entry of claims.json."""
        return {
            "code": self.code,
            "name": self.name,
            "subject": self.subject,
            "statement": self.statement,
            "verdict": self.outcome,
            "quantity": self.quantity,
            "arms": list(self.arms),
            "effect": finite(self.effect),
            "unit": self.unit,
            "interval": _interval(self.interval),
            "n": self.n,
            "p": finite(self.p),
            "test": self.test,
            "margin": self.margin,
            "probability_of_improvement": finite(self.improvement),
            "values": {
                arm: {str(seed): finite(value) for seed, value in seeds.items()}
                for arm, seeds in self.values.items()
            },
            "needs": self.needs,
            "settings": [reading.to_json() for reading in self.settings],
            "also": [reading.to_json() for reading in self.also],
            "notes": list(self.notes),
            "source": {"title": self.source.title, "link": self.source.link},
        }


def effect_text(
    effect: float | None, unit: str, interval: tuple[float, float] | None = None
) -> str:
    """An effect with its unit and interval; of a ratio with a multiplication sign; a dash where
    there is none.
    """
    if effect is None:
        return "–"
    if unit == "times":
        ends = f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
        return f"×{effect:.3g}{ends}"
    ends = f" [{interval[0]:+.3g}, {interval[1]:+.3g}]" if interval else ""
    return f"{effect:+.3g}{ends} {unit}"


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def _interval(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [finite(end) for end in interval]
