"""C14xx, C16xx, C17xx: where normalization stands, the noise of a batch, norms trained alone."""

from __future__ import annotations

from normscope.judge.claim import SecondaryMetric
from normscope.judge.claim_kinds import AccuracyClaim, FinalAccuracyClaim, WithinRunClaim
from normscope.judge.evidence.cells import DEFAULT_BLOCK, Evidence, GridCell
from normscope.judge.evidence.literature import FRANKLE, GHOST, IDENTITY_MAPPINGS
from normscope.judge.evidence.quantities import accuracy, learned_from
from normscope.records.run import RunRecord

NORMS = "norms"


class NoiseRegularizes(FinalAccuracyClaim, code="C1601"):
    """Normalizing by the statistics of 16 images at a time instead of the whole batch makes a
    network generalize better.

    The noise of a batch's statistics is said to regularize. Ghost batch normalization has that of
    small batches and leaves all else as it is: the batches, the steps, the learning rate. In
    batches of 128, and in eval mode both are one function of their weights. The accuracy on the
    training images, in train mode with the noise, stands beside it: a regularizer that helps costs
    something there.

    Needs: runs with ghost-batch and {norm} at equal settings
    Contradicted: statistics of 16 images at a time generalize worse than those of the batch
    """

    source = GHOST
    between = ("ghost-batch", "{norm}")
    networks = "convolutional"
    also = (
        SecondaryMetric(
            "accuracy on the training images",
            "points",
            lambda cell: accuracy(cell.run, "train_accuracy"),
        ),
    )


class NormsAloneLearn(WithinRunClaim, AccuracyClaim, code="C1701"):
    """A network of which only the gains and biases of batch normalization are trained learns.

    All weights stay as they were drawn, those of the last layer too: what is trained chooses among
    random features and shifts them. A fifth of the way from guessing to 1 is what counts as
    learning everywhere here.

    Quantity: final test accuracy of the network whose norms alone are trained, in percent
        (diverged: guessing)
    Needs: finished runs with {norm} and --train norms
    Contradicted: a network of which only gains and biases are trained does not learn
    """

    source = FRANKLE
    between = ("gains and biases alone", "a fifth of the way from guessing")
    networks = "convolutional"

    def reads(self, run: RunRecord, evidence: Evidence) -> bool:
        return super().reads(run, evidence) and run.spec.get("train") == NORMS

    def value(self, cell: GridCell) -> float | None:
        if cell.arm == self.between[0]:
            return accuracy(cell.run)
        return 100 * learned_from(cell.run)


class NormsAloneBeatTheLastLayer(FinalAccuracyClaim, code="C1702"):
    """Training the gains and biases of batch normalization alone does better than training the last
    layer alone.

    About as many numbers (in the default network 1,120 and 650), at two places of a random network:
    inside it, where they change what features there are, and behind it, where they weigh the
    features that there happen to be.

    Needs: runs with {norm} and --train norms, and with --train classifier, at equal settings
    Contradicted: training the last layer alone does better than training gains and biases alone
    """

    source = FRANKLE
    arm_field = "train"
    between = (NORMS, "classifier")
    networks = "convolutional"


class AfterEachConvolution(FinalAccuracyClaim, code="C1401"):
    """Batch normalization belongs after each convolution and before the non-linearity.

    The notebook's order is the post-activation block: convolution, normalization, then the
    non-linearity. Set against it is the block that only changes this order: as many normalizations,
    those of its branch behind their non-linearities. The pre-activation block also normalizes
    before each non-linearity, and the formula block has one normalization less, so that they say
    nothing of it.

    Needs: runs with {norm} in both blocks (--sweep block=post-activation,after-activation)
    Contradicted: the place behind the non-linearity is better for it
    """

    source = IDENTITY_MAPPINGS
    networks = "convolutional"
    arm_field = "block"
    between = (DEFAULT_BLOCK, "after-activation")
