"""The words of a headline: arms, numbers of runs, effects with their intervals, and what is so
where a claim is contradicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from normscope.judge.statistics import LEAST_PAIRS, Estimate
from normscope.judge.verdicts import Verdict, effect_text
from normscope.words import plural

CONTRARY = {
    "C101": "it takes more epochs to become as good {with_norm}",
    "C201": "the accuracy at equal settings is lower {with_norm}",
    "C202": "the accuracy at its own best rate is lower {with_norm}",
    "C203": "fewer runs learn {with_norm}",
    "C204": "the more accurate of two runs is less often the one {with_norm}",
    "C205": "SkipInit instead of a normalization is more accurate",
    "C206": "branches that start at zero make the network without normalization less accurate",
    "C207": "a deeper network loses more accuracy {with_norm}",
    "C301": "gradients vary more from step to step {with_norm}",
    "C302": "the gradient norm varies more over the epochs {with_norm}",
    "C305": "gradients do not grow on their way back {with_norm}",
    "C401": "what the normalization puts out is farther from N(0, 1) {with_norm}",
    "C403": "the output of the first stage drifts more {with_norm}",
    "C404": "the output of the first stage widens more {with_norm}",
    "C405": "hidden vectors become parallel sooner {with_norm}",
    "C501": "a narrower range of learning rates does about as well {with_norm}",
    "C502": "it learns at lower learning rates only {with_norm}",
    "C503": "it learns at lower learning rates only, in small batches, {with_norm}",
    "C601": "the result depends more on the initialization {with_norm}",
    "C701": "fewer values lie where the activation has a slope {with_norm}",
    "C801": "channel means vary more from batch to batch {with_norm}",
    "C901": "running statistics are farther from those of the data than a batch's own",
    "C902": "small test batches are normalized as well by themselves as large ones, or better",
    "C903": "test images are read better by their own statistics than by running ones",
    "C904": "statistics of large batches of corrupted images do worse than running ones",
    "C905": "on corrupted images even batches of one class do better than running statistics",
    "C906": "on corrupted images even batches of 8 do better than running statistics",
    "C1001": "the loss varies more along its gradient {with_norm}",
    "C1002": "the gradient changes more along its own direction {with_norm}",
    "C1003": "the landscape is rougher along the gradient {with_norm}",
    "C1004": "the loss varies more over steps of the training's size {with_norm}",
    "C1005": "gradients change more over steps of the training's size {with_norm}",
    "C1006": "the landscape is rougher over steps of the training's size {with_norm}",
    "C1101": "noise behind it moves distributions less than leaving it out",
    "C1102": "with moving distributions it trains worse",
    "C1201": "residual branches are larger beside their skip paths {with_norm}",
    "C1301": "it loses less accuracy in small batches than group norm",
    "C1302": "it loses less accuracy in small batches than layer norm",
    "C1303": "running statistics cost no accuracy in small batches, but spare some",
    "C1401": "the place behind the non-linearity is better for it",
    "C1501": "the gradient of weights is less orthogonal to them {with_norm}",
    "C1502": "weights grow less {with_norm}",
    "C1503": "the effective rate follows the one that is set more closely {with_norm}",
    "C1504": "a rising learning rate explains less of what weight decay does {with_norm}",
    "C1601": "statistics of 16 images at a time generalize worse than those of the batch",
    "C1701": "a network of which only gains and biases are trained does not learn",
    "C1702": "training the last layer alone does better than training gains and biases alone",
    "C2001": "warm-up spares Pre-LN more than Post-LN",
    "C2002": "the last gradient falls less with depth with Pre-LN than with Post-LN",
    "C2003": "the last gradient falls more slowly with depth than 1 / sqrt(L) with Pre-LN",
    "C2004": "the residual stream grows less with depth with Pre-LN than with Post-LN",
    "C2005": "branches put out less with Pre-LN than with Peri-LN",
    "C2006": "RMS normalization ends with a lower loss than layer normalization",
    "C2007": "hidden states lean to the vector of ones",
    "C2008": "dynamic tanh ends with a lower loss than layer normalization",
    "C2009": "dynamic tanh is better than layer normalization at the best epoch of each",
    "C2010": "normalized queries and keys make the learning rate matter more",
    "C2011": "more depths and learning rates train without normalization",
    "C2012": "gains move more often in pure bf16 than in fp32",
    "C2013": "batch norm over tokens does better with running statistics",
    "C2014": "late layers matter less where normalizations are divided by the root of the depth",
    "C2015": "scarce data costs more with dynamic tanh than with layer normalization",
    "C2016": "scarce data costs more with dynamic tanh at the best epoch of each",
    "C2017": "dynamic tanh is better than layer normalization at the rate that is best for each",
    "C2099": "runs with odd seeds end with a lower loss, which is chance",
}
"""{code: what is so where the claim is contradicted}, the end of "Against common belief, …"."""


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
