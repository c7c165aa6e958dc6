"""C2xx, C6xx: normalization makes a network more accurate, more often, and from more starts."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.judge.claim_kinds import AccuracyClaim, FinalAccuracyClaim, SignClaim
from normscope.judge.evidence.cells import Evidence, GridCell, Group
from normscope.judge.evidence.literature import BLOG, DE_SMITH, NOTEBOOK, SKIPINIT
from normscope.judge.evidence.quantities import (
    accuracies,
    accuracy,
    accuracy_at_the_arms_best,
    has_learned,
    learned_from,
)
from normscope.judge.evidence.summary import idle


class HigherAccuracy(FinalAccuracyClaim, code="C201"):
    """With batch normalization, all else equal, the network ends with a higher test accuracy.

    The accuracy after the last epoch, never the best one on the test images. Judged at the settings
    at which both arms learn on average: where one does not, that is C203's. At these a run that
    diverged or died counts, or the arm would be judged by its survivors.

    Needs: runs with {norm} and {reference} at equal settings
    Contradicted: the accuracy at equal settings is lower {with_norm}
    """

    source = NOTEBOOK


class HigherAccuracyAtItsOwnRate(AccuracyClaim, code="C202"):
    """Batch normalization improves the accuracy also when each network has its own best learning
    rate.

    At equal settings one arm may be run at a rate that suits the other. Each arm gets the rate at
    which its seeds are best on average, one for all of them: a choice for each seed by the others
    would tie the seeds to each other. The best of several is too good in both arms, alike if they
    are as noisy. The rate is all that is tuned: the network without normalization has no
    initialization made for it.

    Quantity: test accuracy after the last epoch at the rate that is best for the arm on average, in
        percent
    Needs: runs with {norm} and {reference} at two learning rates or more
    Contradicted: the accuracy at its own best rate is lower {with_norm}
    """

    source = BLOG
    over = ("learning_rate",)
    least = 2
    where_arms_learn = True

    def value(self, cell: GridCell) -> float | None:
        return accuracy_at_the_arms_best(cell, self.over)


class LearnsMoreOften(SignClaim, code="C203"):
    """With batch normalization the network learns at more settings and seeds.

    Trainability: a run learns if it ends a fifth of the way from guessing to 1, or above. A seed
    counts for the arm that learns at more of the settings. Seeds that fail now and then are
    counted, not averaged; seeds at which both arms learn alike say nothing.

    Quantity: share of the settings at which a seed's run learns, in percent; compared by the sign
    Needs: runs with {norm} and {reference} at equal settings
    Contradicted: fewer runs learn {with_norm}
    """

    source = BLOG

    def value(self, cell: GridCell) -> float | None:
        return None if accuracy(cell.run) is None else 100.0 * has_learned([cell])


class MoreOftenMoreAccurate(SignClaim, code="C204"):
    """With batch normalization, all else equal, the more accurate of two runs is more often the one
    with it.

    The second reading of C201, for arms of which a seed fails now and then: such a seed widens the
    interval of a mean until nothing can be told, and here it is one of many. By how much an arm is
    better plays no part. All runs count, at every setting at which one of the arms learns on
    average: of two networks at guessing neither is the more accurate one.

    Quantity: test accuracy after the last epoch, in percent (diverged: that of guessing), mean over
        settings; compared by the sign
    Needs: runs with {norm} and {reference} at equal settings
    Contradicted: the more accurate of two runs is less often the one {with_norm}
    """

    source = NOTEBOOK

    def value(self, cell: GridCell) -> float | None:
        return accuracy(cell.run)

    def _dead(self, groups: Sequence[Group], evidence: Evidence) -> list[Group]:
        learners = self._learners(evidence)
        return [group for group in groups if len(idle(group, learners)) == len(learners)]


class BetterThanSkipInit(FinalAccuracyClaim, code="C205"):
    """With batch normalization the network ends more accurate also than one without that is
    initialized for it.

    C201 sets batch normalization against a network that nobody would train: its residual branches
    are as large as its skip paths. With SkipInit each branch is multiplied by a number that starts
    at 0, so that the network starts as its shortcuts alone. All else is equal.

    Needs: runs with {norm} and skipinit at equal settings
    Contradicted: SkipInit instead of a normalization is more accurate
    """

    source = SKIPINIT
    between = ("{norm}", "skipinit")
    networks = "convolutional"


class BranchesFromZero(FinalAccuracyClaim, code="C206"):
    """A network without normalization ends more accurate if its residual branches start at zero.

    What SkipInit does for a network without normalization, at settings at which it learns without
    SkipInit too.

    Needs: runs with skipinit and {reference} at equal settings
    Contradicted: branches that start at zero make the network without normalization less accurate
    """

    source = SKIPINIT
    between = ("skipinit", "{reference}")
    networks = "convolutional"


class DepthCostsLess(AccuracyClaim, code="C207"):
    """With batch normalization a deeper network loses less accuracy.

    A deeper network can do what a shallow one does. What it loses all the same is trained worse,
    and without normalization its variances grow or shrink with every block. The accuracy of the
    network with the fewest blocks minus that of the one with the most, at equal settings.

    Quantity: final test accuracy of the shallowest network minus that of the deepest, in percent
        (diverged: guessing)
    Needs: runs with {norm} and {reference} at several --sweep blocks_per_stage
    Contradicted: a deeper network loses more accuracy {with_norm}
    """

    source = DE_SMITH
    networks = "convolutional"
    higher_supports = False
    over = ("blocks_per_stage",)
    least = 2
    where_arms_learn = True

    def value(self, cell: GridCell) -> float | None:
        shallow, deep = accuracy(cell.runs[0]), accuracy(cell.runs[-1])
        return None if shallow is None or deep is None else shallow - deep


class LessDependentOnInitialization(AccuracyClaim, code="C601"):
    """With batch normalization the result depends less on how the weights are initialized.

    The same seed draws the same numbers under every scale, so that the range over initializations
    is theirs alone. Best minus worst, since one bad initialization is what a user meets. An arm
    that learns from none of them has no range: it would be zero, and look independent.

    Quantity: best minus worst final test accuracy over schemes and scales of initialization
        (diverged: guessing)
    Needs: runs with {norm} and {reference} at several --sweep initialization_scale or
        initialization, each arm learning from one of them
    Contradicted: the result depends more on the initialization {with_norm}
    """

    source = BLOG
    higher_supports = False
    over = ("initialization", "initialization_scale")
    least = 2

    def value(self, cell: GridCell) -> float | None:
        means = accuracies(cell.group.arms[cell.arm].values(), self.over)
        if not means or max(means.values()) < 100 * learned_from(cell.run):
            return None
        values = [accuracy(run) for run in cell.runs]
        known = [value for value in values if value is not None]
        return max(known) - min(known) if len(known) == len(values) else None
