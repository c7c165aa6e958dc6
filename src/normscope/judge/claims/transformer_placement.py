"""C20xx: where a transformer normalizes."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.judge.claim_kinds import (
    PLACEMENT,
    AtInitialization,
    InTrainedNetwork,
    ReadTwice,
    TransformerClaim,
    means,
)
from normscope.judge.evidence.cells import Evidence, GridCell, Group, value_of
from normscope.judge.evidence.literature import DEPTH_CURSE, PERI_LN, XIONG
from normscope.judge.evidence.quantities import exponent, held_out_loss, measured_values
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES
from normscope.records.run import RunRecord


class PostNeedsWarmup(TransformerClaim, code="C2001"):
    """A transformer with Post-LN needs warm-up where one with Pre-LN does not.

    An interaction: what warm-up spares each placement, at the same learning rate, data and steps.
    That warm-up helps Post-LN alone would not say that it is needed less elsewhere.

    Quantity: held-out loss without warm-up minus that with the longest, in nats (diverged:
        guessing)
    Needs: runs of a transformer with placements post and pre, each with --warmup 0 and another
        (study transformer)
    Contradicted: warm-up spares Pre-LN more than Post-LN
    """

    source = XIONG
    between = ("post", "pre")
    arm_field = PLACEMENT
    over = ("warmup",)
    least = 2
    higher_supports = True
    margin = 0.05

    def value(self, cell: GridCell) -> float | None:
        without, with_it = cell.runs[0], cell.runs[-1]
        if value_of(without, "warmup") or not value_of(with_it, "warmup"):
            return None
        losses = held_out_loss(without), held_out_loss(with_it)
        return None if None in losses else losses[0] - losses[1]  # type: ignore[operator]


def gradient_exponent(cell: GridCell) -> float | None:
    """Slope of the last gradient's logarithm against that of the depth."""
    depth, gradient = (
        measured_values(cell.run, DEPTH_SIGNALS, name) for name in ("depth", "gradient")
    )
    return None if depth is None or gradient is None else exponent(depth, gradient)


class LastGradientFallsWithDepth(AtInitialization, code="C2002"):
    """Before the first step the last layer's gradient falls with the number of layers with Pre-LN,
    and not with Post-LN.

    The theory behind warm-up: with Post-LN the gradient near the output is large whatever the
    depth, so that a full learning rate is too much for it. Exponents are slopes over depths of 2 to
    32 in logarithms; theory has -1/2 for Pre-LN and 0 for Post-LN.

    Quantity: exponent of depth in the norm of the gradient of the last feed-forward weight
    Needs: runs of a transformer with placements pre and post (measurement depth-signals)
    Contradicted: the last gradient falls less with depth with Pre-LN than with Post-LN
    """

    source = XIONG
    between = ("pre", "post")
    arm_field = PLACEMENT
    unit = "in the exponent"
    higher_supports = False
    margin = 0.1

    def value(self, cell: GridCell) -> float | None:
        return gradient_exponent(cell)

    def notes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return means(groups, "Exponent", gradient_exponent)


class LastGradientFallsFasterThanTheRoot(AtInitialization, ReadTwice, code="C2003"):
    """Before the first step the last layer's gradient falls faster with depth than as 1 / sqrt(L)
    with Pre-LN.

    Theory bounds it by 1 / sqrt(L); "no difference" says that the bound is what happens. The
    exponent of each run is set against -1/2.

    Quantity: exponent of depth in the norm of the gradient of the last feed-forward weight
    Needs: runs of a transformer with placement pre (measurement depth-signals)
    Contradicted: the last gradient falls more slowly with depth than 1 / sqrt(L) with Pre-LN
    """

    source = XIONG
    between = ("measured", "1 / sqrt(L)")
    unit = "in the exponent"
    higher_supports = False
    margin = 0.1

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        return value_of(run, PLACEMENT) == "pre"

    def value(self, cell: GridCell) -> float | None:
        found = gradient_exponent(cell)
        return found if cell.arm == "measured" or found is None else -0.5


class StreamGrowsUnderPre(AtInitialization, code="C2004"):
    """Before the first step the variance of the residual stream grows with depth under Pre-LN, and
    stays under Post-LN.

    Every branch of a Pre-LN network adds to a stream that nothing divides, so that late layers add
    little to much. In a network of 32 blocks, over the values of a token.

    Quantity: variance of the residual stream behind the last block over that behind the first
    Needs: runs of a transformer with placements pre and post (measurement depth-signals)
    Contradicted: the residual stream grows less with depth with Pre-LN than with Post-LN
    """

    source = PERI_LN
    between = ("pre", "post")
    arm_field = PLACEMENT
    unit = "times"
    higher_supports = True
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        stream = measured_values(cell.run, DEPTH_SIGNALS, "stream")
        return None if stream is None or not stream[0] else float(stream[-1] / stream[0])


class BranchesBoundedUnderPeri(InTrainedNetwork, code="C2005"):
    """Training makes the outputs of branches larger under Pre-LN than under Peri-LN.

    Nothing bounds what a branch adds under Pre-LN; under Peri-LN it is normalized, and grows with
    the gain alone.

    Quantity: variance over a token's values of the largest feed-forward branch after the training
    Needs: finished runs of a transformer with placements pre and peri (measurement hidden-states)
    Contradicted: branches put out less with Pre-LN than with Peri-LN
    """

    source = PERI_LN
    between = ("pre", "peri")
    arm_field = PLACEMENT
    unit = "times"
    higher_supports = True
    margin = 1.25

    def value(self, cell: GridCell) -> float | None:
        branch = measured_values(cell.run, HIDDEN_STATES, "branch")
        return None if branch is None else float(branch.max())


class ScalingMakesLateLayersMatter(InTrainedNetwork, code="C2014"):
    """Dividing a Pre-LN normalization by the root of the depth makes late layers matter more.

    Late layers of Pre-LN networks can often be left out at no price. What leaving one block out
    costs, mean over the second half of the blocks.

    Quantity: held-out loss without a block of the second half minus that of the whole network, nats
    Needs: finished runs of a transformer with placements pre-scaled and pre (measurement
        hidden-states)
    Contradicted: late layers matter less where normalizations are divided by the root of the depth
    """

    source = DEPTH_CURSE
    between = ("pre-scaled", "pre")
    arm_field = PLACEMENT
    higher_supports = True

    def value(self, cell: GridCell) -> float | None:
        whole, without = (
            measured_values(cell.run, HIDDEN_STATES, name) for name in ("loss", "loss_without")
        )
        if whole is None or without is None:
            return None
        return float(without[len(without) // 2 :].mean() - whole[0])
