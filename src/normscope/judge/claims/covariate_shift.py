"""C11xx: batch normalization helps, and not by keeping distributions where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from normscope.judge import statistics
from normscope.judge.claim import Claim, SecondaryMetric
from normscope.judge.claim_kinds import MeasuredClaim
from normscope.judge.evidence.cells import Evidence, GridCell
from normscope.judge.evidence.literature import SANTURKAR
from normscope.judge.evidence.quantities import (
    accuracy,
    accuracy_step,
    evaluated,
    median_over_channels,
)
from normscope.judge.statistics import Estimate
from normscope.judge.verdicts import EffectEstimate, Outcome, Verdict
from normscope.records.measurements import MOVEMENT
from normscope.records.run import RunRecord

NOISY = "noisy-batch"
NEEDS = "runs of `normscope study covariate-shift` with noisy-batch, {norm} and {reference}"


class _Movement(MeasuredClaim):
    """Noisy batch normalization against the network without normalization."""

    quantity = "movement from step to step"
    source = SANTURKAR
    needs = NEEDS + " (measurement movement)"
    measurement = MOVEMENT
    of_weights = False  # it trains anew
    unit = "times"
    higher_supports = True
    margin = 1.25
    between = (NOISY, "{reference}")

    def value(self, cell: GridCell) -> float | None:
        return median_over_channels(cell.run, MOVEMENT, "movement")


class NoiseMovesDistributions(_Movement, code="C1101"):
    """With noise behind batch normalization distributions move more than without any normalization.

    Whether the noise does what it is there for: if what the next layers are given moved no more
    than in a network without normalization, C1102 would say nothing. A movement of the mean and of
    the standard deviation of a channel between two steps, in standard deviations of the channel;
    what another batch moves is part of it, in all arms.

    Quantity: movement from step to step of what leaves the normalization layers (or stands in their
        places), median over channels
    Contradicted: noise behind it moves distributions less than leaving it out
    """


class _Training(Claim):
    source = SANTURKAR
    networks = "convolutional"
    quantity = "accuracy on the training images in the last epoch"
    needs = NEEDS
    unit = "points"
    higher_supports = True
    margin = 1.0

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run, "train_accuracy")

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return accuracy_step(runs, "train_images")


class _MovesMoreThanNorm(_Movement):
    between = (NOISY, "{norm}")


class _BetterThanReference(_Training):
    between = (NOISY, "{reference}")


class NotInternalCovariateShift(_Training, code="C1102"):
    """With distributions that move at every step batch normalization still trains about as well.

    If batch normalization helped by keeping distributions where they are, it would not help with
    noise behind it that moves them at every step. All parts must hold, so that each is tested at
    5%. It is contradicted where distributions move more and the accuracy is lower by more than a
    point (whole interval). Where normalization is no help there is nothing to explain. It is about
    training, as in the paper, hence the training images, with the noise on. In eval mode there is
    none, while the running statistics are those of noisy activations: accuracy there says how well
    they fit, not how well the network trained. It stands beside, as does that with the batch's
    statistics.

    Quantity: accuracy on the training images in the last epoch, as it trains, in percent (diverged:
        guessing)
    Decided by: three tests that must all hold: distributions move more with noise than without
        normalization (C1101); the accuracy with noise is at most 1 point below that without it
        (whole interval); and it is higher than without normalization
    Contradicted: with moving distributions it trains worse
    """

    also = (
        SecondaryMetric(
            "test accuracy without eval(), noise on, batches of 128",
            "points",
            lambda c: evaluated(c.run, "batch", 128),
        ),
        SecondaryMetric(
            "test accuracy in eval mode, noise off", "points", lambda cell: accuracy(cell.run)
        ),
    )

    between = (NOISY, "{norm}")

    def judged_on(self, evidence: Evidence) -> list[RunRecord]:
        parts = _BetterThanReference().judged_on(evidence)
        return [*super().judged_on(evidence), *parts]

    def judge(self, evidence: Evidence) -> Verdict:
        verdict = super().judge(evidence)
        if not verdict.n:
            return verdict
        moves, better = _Movement().judge(evidence), _BetterThanReference().judge(evidence)
        outcome, needs = _together(verdict, moves, better)
        parts = (
            _reading(f"movement, {NOISY} over {evidence.reference}", moves),
            _reading(
                f"movement, {NOISY} over {evidence.norm}", _MovesMoreThanNorm().judge(evidence)
            ),
            _reading(f"training accuracy, {NOISY} minus {evidence.reference}", better),
        )
        return dataclasses.replace(
            verdict,
            outcome=outcome,
            needs=needs,
            e=None,  # it is three tests, and this one is of no difference
            more_seeds=None,
            also=(*parts, *verdict.also),
        )

    def _outcome(self, estimate: Estimate) -> Outcome:
        if estimate.interval is None or estimate.resolution >= self.margin:
            return "cannot tell"
        low, high = estimate.interval
        if low > -self.margin:
            return "supported"
        return "contradicted" if high < -self.margin else "cannot tell"

    def _more_seeds(self, estimate: Estimate) -> int | None:
        return statistics.more_seeds(estimate, self.margin, apart_from=self.margin)


def _together(as_good: Verdict, moves: Verdict, better: Verdict) -> tuple[Outcome, str]:
    """The verdict on the whole, and what would settle it."""
    if moves.outcome != "supported":
        return (
            "cannot tell",
            moves.needs
            or "noise that moves distributions more than they move without normalization",
        )
    if as_good.outcome == "contradicted" or as_good.outcome == better.outcome == "supported":
        return as_good.outcome, ""
    if better.outcome in ("negligible", "no difference", "contradicted"):
        return "cannot tell", "a setting at which normalization helps: here it does not"
    parts = (("as good as with normalization", as_good), ("better than without", better))
    return "cannot tell", "; ".join(f"{words}: {part.needs}" for words, part in parts if part.needs)


def _reading(label: str, verdict: Verdict) -> EffectEstimate:
    return EffectEstimate(
        label,
        verdict.unit,
        effect=verdict.effect,
        interval=verdict.interval,
        n=verdict.n,
        p=verdict.p,
        fixed_interval=verdict.fixed_interval,
        e=verdict.e,
        outcome=verdict.outcome,
    )
