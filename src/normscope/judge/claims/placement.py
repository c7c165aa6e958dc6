"""C14xx: where normalization belongs."""

from __future__ import annotations

from normscope.judge.claim_kinds import AccuracyClaim
from normscope.judge.evidence.cells import DEFAULT_BLOCK, Evidence, GridCell, value_of
from normscope.judge.evidence.literature import IDENTITY_MAPPINGS
from normscope.judge.evidence.quantities import accuracy_at_the_choice_of_others
from normscope.records.run import RunRecord

OTHERS = "other placements"


class AfterEachConvolution(AccuracyClaim, code="C1401"):
    """Batch normalization belongs after each convolution and before the non-linearity.

    The notebook's order is the post-activation block: convolution, normalization, then the
    non-linearity. It is set against the best of the other blocks, chosen on other seeds. Widths,
    depth and number of activations are the same; normalizations are not quite: the formula block
    has one less, the pre-activation network none on its projections and one at its end. The
    after-activation block has as many, those of its branch behind their non-linearities.

    Quantity: final test accuracy of the post-activation block against the other block that was best
        for other seeds
    Needs: runs with {norm} in several blocks, two seeds or more (--sweep
        block=post-activation,after-activation)
    """

    source = IDENTITY_MAPPINGS
    over = ("block",)
    arm_field = "block"

    def arms(self, evidence: Evidence) -> tuple[str, str]:
        return DEFAULT_BLOCK, OTHERS

    def arm_of(self, run: RunRecord, evidence: Evidence) -> str | None:
        if run.norm != evidence.norm:
            return None
        return DEFAULT_BLOCK if value_of(run, "block") == DEFAULT_BLOCK else OTHERS

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at_the_choice_of_others(cell, self.over)
