"""C14xx: where normalization belongs."""

from __future__ import annotations

from normscope.judge.claim_kinds import FinalAccuracyClaim
from normscope.judge.evidence.cells import DEFAULT_BLOCK
from normscope.judge.evidence.literature import IDENTITY_MAPPINGS


class AfterEachConvolution(FinalAccuracyClaim, code="C1401"):
    """Batch normalization belongs after each convolution and before the non-linearity.

    The notebook's order is the post-activation block: convolution, normalization, then the
    non-linearity. Set against it is the block that only changes this order: as many normalizations,
    those of its branch behind their non-linearities. The pre-activation block also normalizes
    before each non-linearity, and the formula block has one normalization less, so that they say
    nothing of it.

    Needs: runs with {norm} in both blocks (--sweep block=post-activation,after-activation)
    """

    source = IDENTITY_MAPPINGS
    networks = "convolutional"
    arm_field = "block"
    between = (DEFAULT_BLOCK, "after-activation")
