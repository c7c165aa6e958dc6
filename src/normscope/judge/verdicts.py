"""The verdict on a claim, the numbers behind it, and what would settle an open one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from normscope.judge.sequential import e_benjamini_hochberg
from normscope.judge.statistics import FIRM_FROM, LEVEL, holm

Outcome = Literal["supported", "contradicted", "negligible", "no difference", "cannot tell"]
"""`negligible`: inside the margin, and not zero; `no difference`: inside it, and perhaps zero."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Source:
    """A publication that makes a claim, or disputes it."""

    title: str
    link: str


@dataclass(frozen=True)
class EffectEstimate:
    """A difference of the arms in the claim's unit: the first's minus (or over) the second's."""

    label: str  # the setting, or the quantity
    unit: str
    effect: float | None
    interval: tuple[float, float] | None  # holds at any n; those of several settings together
    n: int
    p: float | None = None  # of no difference, two-sided, at a fixed n
    fixed_interval: tuple[float, float] | None = None  # the same as an interval, 95%
    e: float | None = None  # e-value against no difference
    outcome: Outcome | None = None  # None for a quantity that only accompanies


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim judged on the runs of one network on one data set."""

    code: str
    name: str
    subject: str  # which network on which data
    statement: str
    outcome: Outcome
    quantity: str
    arms: tuple[str, str]
    effect: float | None = None
    unit: str
    interval: tuple[float, float] | None = None  # covers 95%, at all numbers of seeds together
    n: int = 0
    e: float | None = None  # e-value against no difference: it decides
    p: float | None = None  # of a test for which n was fixed beforehand
    fixed_interval: tuple[float, float] | None = None  # covers 95% at such an n
    test: str = ""  # the one behind p
    margin: float = 0.0
    neutral: float = 0.0  # the effect that is no effect: 0 of a difference, 1 of a ratio
    improvement: float | None = None  # probability that a run of the first arm is the better one
    improvement_interval: tuple[float, float] | None = None  # 95%, at this n
    stands: bool | None = None  # among all claims (e-BH); None where there is no e-value
    family_p: float | None = None  # p among all claims (Holm)
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # {arm: {seed: value}}
    needs: str = ""  # what would settle it
    more_seeds: int | None = None  # how many more would probably do, where only seeds lack
    settings: tuple[EffectEstimate, ...] = ()  # the difference at each of several settings
    also: tuple[EffectEstimate, ...] = ()  # quantities that accompany the one that decides
    notes: tuple[str, ...] = ()
    source: Source

    @property
    def provisional(self) -> bool:
        """A verdict on fewer seeds than are needed to see that one fails now and then."""
        return self.outcome != "cannot tell" and self.n < FIRM_FROM

    @property
    def turns(self) -> tuple[str, ...]:
        """The settings at which the effect has another sign than that of the verdict."""
        if self.outcome not in ("supported", "contradicted") or self.effect is None:
            return ()
        above = self.effect > self.neutral
        return tuple(
            each.label
            for each in self.settings
            if each.effect is not None
            and each.effect != self.neutral
            and (each.effect > self.neutral) != above
        )

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """What belongs to the outcome wherever it is shown."""
        found = []
        if self.outcome == "negligible" and self.effect is not None:
            found.append(f"{'above' if self.effect > self.neutral else 'below'} {self.neutral:g}")
        if self.provisional:
            found.append("provisional")
        if self.turns:
            found.append(f"on average; the sign turns at {', '.join(self.turns)}")
        return tuple(found)

    @property
    def words(self) -> str:
        """The outcome with its qualifiers, "supported (provisional)"."""
        return f"{self.outcome} ({', '.join(self.qualifiers)})" if self.qualifiers else self.outcome

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
        """Return an entry of claims.json: plain values, null for what is missing or infinite."""
        entry = _plain(asdict(self)) | {"provisional": self.provisional}
        del entry["neutral"]
        return entry


JSON_NAMES = {
    "outcome": "verdict",
    "improvement": "probability_of_improvement",
    "improvement_interval": "probability_of_improvement_interval",
    "stands": "stands_in_family",
    "family_p": "fixed_n_p_in_family",
    "p": "fixed_n_p",
    "fixed_interval": "fixed_n_interval",
    "test": "fixed_n_test",
}


def effect_text(
    effect: float | None, unit: str, interval: tuple[float, float] | None = None
) -> str:
    """Return an effect with its unit and interval, as "×1.5 [1.2, 1.9]"; a dash for none."""
    if effect is None:
        return "–"
    sign = "" if unit == "times" else "+"
    ends = f" [{interval[0]:{sign}.3g}, {interval[1]:{sign}.3g}]" if interval else ""
    if unit == "times":
        return f"×{effect:.3g}{ends}"
    shown = f"{effect:+.3g}"
    one = shown in ("+1", "-1") and not interval
    return f"{shown}{ends} {unit.removesuffix('s') if one else unit}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {JSON_NAMES.get(name, str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MARK = "†"
"""Beside a verdict that stands."""

DIFFERENT = ("supported", "contradicted", "negligible")
"""The outcomes that say that there is a difference."""


def marked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts on one subject with what each is among them.

    Every claim that has an e-value is of the family, whatever its outcome; one that is judged at
    several settings is one member.
    """
    members = [verdict for verdict in verdicts if verdict.e is not None]
    stands = e_benjamini_hochberg([verdict.e or 0.0 for verdict in members], LEVEL)
    adjusted = holm([verdict.p for verdict in members])
    found = {
        verdict.code: {"stands": stand and verdict.outcome in DIFFERENT, "family_p": p}
        for verdict, stand, p in zip(members, stands, adjusted, strict=True)
    }
    return [dataclasses.replace(each, **found.get(each.code, {})) for each in verdicts]


def family_sentence(verdicts: Sequence[Verdict]) -> str:
    """Say of one subject how many verdicts stand together; empty where none finds a difference."""
    members = [verdict for verdict in verdicts if verdict.e is not None]
    found = [verdict for verdict in members if verdict.outcome in DIFFERENT]
    if not found:
        return ""
    standing = sum(bool(verdict.stands) for verdict in found)
    fixed = sum(verdict.family_p is not None and verdict.family_p < LEVEL for verdict in found)
    return (
        f"{MARK} {standing} of the {len(found)} verdicts of a difference stand among all "
        f"{len(members)} claims that were tested (e-BH, {LEVEL:.0%}); for an n decided "
        f"beforehand {fixed} do (Holm)."
    )
