"""C20xx: which normalization a transformer needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from normscope.judge.claim_kinds import (
    AtInitialization,
    InTrainedNetwork,
    ReadTwice,
    TransformerClaim,
    means,
)
from normscope.judge.evidence.cells import Evidence, GridCell, Group, value_of
from normscope.judge.evidence.literature import (
    BF16,
    CONTROL,
    DYT,
    DYT_DISPUTED,
    FIXUP,
    ONES,
    POWER_NORM,
    RMS_NORM,
    WORTSMAN,
)
from normscope.judge.evidence.quantities import (
    has_learned,
    held_out_loss,
    mean_losses,
    measured_values,
)
from normscope.judge.statistics import Estimate
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES
from normscope.records.run import RunRecord


class LayerBetterThanRms(TransformerClaim, code="C2006"):
    """A transformer with layer normalization ends with a lower loss than one with RMS
    normalization.

    RMS normalization leaves the mean in, and has no bias; that it does as well is why it is used.
    "No difference" is the verdict that its users expect.

    Quantity: held-out loss after the last epoch, in nats (diverged: guessing)
    Needs: runs of a transformer with layer and rms at equal settings
    Contradicted: RMS normalization ends with a lower loss than layer normalization
    """

    source = RMS_NORM
    between = ("layer", "rms")


class HiddenStatesOrthogonalToOnes(InTrainedNetwork, ReadTwice, code="C2007"):
    """Hidden states of a trained network with RMS normalization are nearer to orthogonal to the
    vector of ones than directions drawn at random.

    The direction that layer normalization removes and RMS normalization does not: if hidden states
    have nothing there, to remove it changes nothing. A random direction of width d has a mean
    squared cosine of 1 / d.

    Quantity: squared cosine of hidden states and ones, times the width; mean over tokens and blocks
    Needs: finished runs of a transformer with rms (measurement hidden-states)
    Contradicted: hidden states lean to the vector of ones
    """

    source = ONES
    between = ("trained", "random")
    unit = "times"
    higher_supports = False
    margin = 1.25

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        return run.norm == "rms"

    def value(self, cell: GridCell) -> float | None:
        ones = measured_values(cell.run, HIDDEN_STATES, "ones")
        if ones is None:
            return None
        return float(ones.mean()) if cell.arm == "trained" else 1.0


class LayerBetterThanDynamicTanh(TransformerClaim, code="C2008"):
    """A transformer with layer normalization ends with a lower loss than one with dynamic tanh.

    At a fixed endpoint: the last epoch, all settings equal. C2009 is the same at each run's best
    epoch, as the two may overfit at different times.

    Quantity: held-out loss after the last epoch, in nats (diverged: guessing)
    Needs: runs of a transformer with layer and dyt at equal settings
    Contradicted: dynamic tanh ends with a lower loss than layer normalization
    """

    source = DYT
    between = ("layer", "dyt")


class LayerBetterThanDynamicTanhAtItsBest(TransformerClaim, code="C2009"):
    """A transformer with layer normalization reaches a lower loss than one with dynamic tanh also
    when each is read at its best epoch.

    The lowest of several readings is too low in both arms, and alike if they are as noisy. What it
    answers is whether a difference at the end is one of stopping too late.

    Quantity: lowest held-out loss of any epoch, in nats (diverged: guessing)
    Needs: runs of a transformer with layer and dyt at equal settings
    Contradicted: dynamic tanh is better than layer normalization at the best epoch of each
    """

    source = DYT_DISPUTED
    between = ("layer", "dyt")
    best = True


def _loss_at_best_rate(cell: GridCell) -> float | None:
    """The held-out loss of a seed at the rate with the lowest mean of its arm."""
    means = mean_losses(cell.group.arms[cell.arm].values(), ("learning_rate",))
    losses = {run.learning_rate: held_out_loss(run) for run in cell.runs}
    return losses.get(min(means, key=lambda knobs: means[knobs])[0]) if means else None


class LayerBetterThanDynamicTanhAtItsBestRate(TransformerClaim, code="C2017"):
    """A transformer with layer normalization ends with a lower loss than one with dynamic tanh also
    when each is trained at the rate that is best for it.

    A rate at which layer normalization learns well need not suit dynamic tanh. An arm's best rate
    is the one with the lowest mean over its seeds, one for all of them, as in C202.

    Quantity: held-out loss after the last epoch at the arm's best rate, in nats (diverged:
        guessing)
    Needs: runs of a transformer with layer and dyt at three learning rates or more
    Contradicted: dynamic tanh is better than layer normalization at the rate that is best for each
    """

    source = DYT
    between = ("layer", "dyt")
    over = ("learning_rate",)
    least = 3

    def value(self, cell: GridCell) -> float | None:
        return _loss_at_best_rate(cell)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return tuple(
            f"Mean losses of {arm}{group.where}: "
            + ", ".join(f"{loss:.3g} at {rate:g}" for (rate,), loss in sorted(found.items()))
            + "."
            for group in groups
            for arm, cells in group.arms.items()
            if (found := mean_losses(cells.values(), self.over))
        )


class DynamicTanhLosesLessFromScarceData(TransformerClaim, code="C2015"):
    """Scarce data costs a transformer with dynamic tanh less than one with layer normalization.

    An interaction: what each loses when it sees a small share of the data many times in place of
    all of it, in about as many steps. At a fixed endpoint, the last epoch; C2016 is the same at
    each run's best, as it may be that one arm only overfits earlier. Where an arm learns nothing,
    it loses nothing, and nothing is judged.

    Quantity: held-out loss with the smallest share of the data minus that with the largest, in nats
    Needs: runs of a transformer with layer and dyt at two values of --train-share or more
    Contradicted: scarce data costs more with dynamic tanh than with layer normalization
    """

    source = DYT_DISPUTED
    between = ("dyt", "layer")
    over = ("train_share", "epochs")
    least = 2
    where_arms_learn = True  # what has learned nothing loses nothing

    def value(self, cell: GridCell) -> float | None:
        scarce, ample = cell.runs[0], cell.runs[-1]
        if value_of(scarce, "train_share") == value_of(ample, "train_share"):
            return None
        losses = self._loss(scarce), self._loss(ample)
        return None if None in losses else losses[0] - losses[1]  # type: ignore[operator]

    def _loss(self, run: RunRecord) -> float | None:
        return held_out_loss(run, best=self.best)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return tuple(
            note
            for at, share in ((0, "smallest"), (-1, "largest"))
            for note in means(
                groups,
                f"Loss with the {share} share",
                lambda cell, at=at: self._loss(cell.runs[at]),
            )
        )


class DynamicTanhLosesLessAtItsBest(DynamicTanhLosesLessFromScarceData, code="C2016"):
    """Scarce data costs a transformer with dynamic tanh less than one with layer normalization also
    when each is read at its best epoch.

    If C2015 holds and this does not, dynamic tanh only overfits more slowly. The lowest of several
    readings is too low in both arms; with one epoch of ample data it is the only one.

    Quantity: lowest held-out loss of any epoch with the smallest share of the data minus that with
        the largest, in nats
    Needs: runs of a transformer with layer and dyt at two values of --train-share or more
    Contradicted: scarce data costs more with dynamic tanh at the best epoch of each
    """

    best = True


class NormalizedQueriesWidenRates(TransformerClaim, code="C2010"):
    """With normalized queries and keys the learning rate matters less to a transformer.

    The learning rate sensitivity of Wortsman et al.: what is lost on average over a range of rates
    against the arm's best rate, by the same seed there. It has no threshold, and a run that
    diverges counts as guessing.

    Quantity: held-out loss, mean over the rates, minus the seed's loss at the arm's best rate, in
        nats
    Needs: runs of a transformer with and without --qk-norm at three learning rates or more
    Contradicted: normalized queries and keys make the learning rate matter more
    """

    source = WORTSMAN
    between = ("True", "False")
    arm_field = "qk_norm"
    over = ("learning_rate",)
    least = 3

    def value(self, cell: GridCell) -> float | None:
        known = [loss for run in cell.runs if (loss := held_out_loss(run)) is not None]
        best = _loss_at_best_rate(cell)
        if best is None or len(known) < len(cell.runs):
            return None
        return float(np.mean(known)) - best


class DeepNeedsNormalization(TransformerClaim, code="C2011"):
    """Without normalization fewer depths and learning rates train.

    Every depth at every rate of the study; the notes name what learned without normalization. A run
    learns if its accuracy ends a fifth of the way from guessing to 1.

    Quantity: share of the depths and rates at which a seed's run learns, in percent
    Needs: runs of a transformer with layer and none at several depths and learning rates
    Contradicted: more depths and learning rates train without normalization
    """

    source = FIXUP
    between = ("none", "layer")
    over = ("depth", "learning_rate")
    least = 4
    unit = "points"
    higher_supports = False
    margin = 10.0

    def value(self, cell: GridCell) -> float | None:
        return 100 * float(np.mean([_learns(cell, run) for run in cell.runs]))

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        cells = {(run.learning_rate, value_of(run, "depth")) for run in runs}
        return 100 / len(cells)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return tuple(_trained(arm, cells) for group in groups for arm, cells in group.arms.items())


def _learns(cell: GridCell, run: RunRecord) -> bool:
    return has_learned([GridCell(cell.arm, cell.seed, (run,), cell.group)])


def _trained(arm: str, cells: dict[int, GridCell]) -> str:
    learned: dict[tuple[int, float], int] = {}
    for cell in cells.values():
        for run in cell.runs:
            where = value_of(run, "depth"), run.learning_rate
            learned[where] = learned.get(where, 0) + _learns(cell, run)
    words = ", ".join(
        f"{count} at depth {depth} and rate {rate:g}"
        for (depth, rate), count in sorted(learned.items())
    )
    return f"{arm}, of {len(cells)} seeds learned: {words}."


class GainsStandStillInBf16(AtInitialization, ReadTwice, code="C2012"):
    """In pure bf16 gains stand still where in fp32 they move.

    A gain of 1 has its neighbours 0.0078 above and 0.0039 below in bf16, and a step of AdamW is
    about the learning rate: a step of less than half of that is rounded away. Twenty steps at a
    rate of 3e-4 on the same samples, without autocast.

    Quantity: share of the gains that twenty steps move, in percent
    Needs: runs of a transformer with a normalization that has gains (measurement depth-signals)
    Contradicted: gains move more often in pure bf16 than in fp32
    """

    source = BF16
    between = ("pure bf16", "fp32")
    unit = "points"
    higher_supports = False
    margin = 5.0

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        return run.norm in ("layer", "rms")

    def value(self, cell: GridCell) -> float | None:
        name = "moved_bf16" if cell.arm == "pure bf16" else "moved_fp32"
        share = measured_values(cell.run, DEPTH_SIGNALS, name)
        return None if share is None else 100 * float(share[0])

    def resolution(self, runs: Sequence[RunRecord]) -> float:
        return 1.0  # of a hundred gains or more


class TokenBatchNormGap(InTrainedNetwork, ReadTwice, code="C2013"):
    """Batch normalization over tokens does worse with running statistics than with those of the
    batch.

    The train-eval gap that is blamed for batch normalization's failure in transformers: the same
    network on the same held-out batches, in eval and in train mode. In a causal network the
    batch's statistics also hold what comes later, so that a part of the gap is cheating.

    Quantity: held-out loss of the trained network, in nats
    Needs: finished runs of a transformer with batch (measurement hidden-states)
    Contradicted: batch norm over tokens does better with running statistics
    """

    source = POWER_NORM
    between = ("running statistics", "batch statistics")
    higher_supports = True

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        return run.norm == "batch"

    def value(self, cell: GridCell) -> float | None:
        name = "loss" if cell.arm == self.between[0] else "loss_of_batches"
        loss = measured_values(cell.run, HIDDEN_STATES, name)
        return None if loss is None else float(loss[0])


FIRST, SECOND, HALF = "even seeds", "odd seeds", "half"


class TwoHalvesOfOneArm(TransformerClaim, code="C2099"):
    """Of runs that differ in nothing but their seeds, those with even seeds end with a lower loss.

    A control that is false by construction: it must stay undecided, or within the margin. Seeds 0
    and 1 make a pair, 2 and 3 the next, as if they were two arms of one seed.

    Quantity: held-out loss after the last epoch, in nats (diverged: guessing)
    Needs: six runs of a transformer with layer or more that differ in nothing but their seeds
    Contradicted: runs with odd seeds end with a lower loss, which is chance
    """

    source = CONTROL
    between = (FIRST, SECOND)
    arm_field = HALF

    def _groups(self, evidence: Evidence, arms: tuple[str, str]) -> list[Group]:
        runs = [
            dataclasses.replace(
                run,
                spec={**run.spec, "seed": run.seed // 2, HALF: SECOND if run.seed % 2 else FIRST},
            )
            for run in evidence.runs
            if run.norm == "layer"
        ]
        halves = Evidence(runs, evidence.subject, evidence.norm, evidence.reference)
        return super()._groups(halves, arms)

    def _more_seeds(self, estimate: Estimate) -> None:
        """Nothing would settle it: more seeds are not asked for."""
