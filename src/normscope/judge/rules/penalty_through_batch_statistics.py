"""NS810: a gradient penalty on a network whose outputs depend on the whole batch."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT = 0.1


class PenaltyThroughBatchStatistics(Rule):
    """In more than a tenth of the steps the gradient with respect to the inputs is itself
    differentiated (a gradient penalty, as in a WGAN-GP critic, or an equation's residual), while
    layers normalize by the batch's statistics.
    """

    code = "NS810"
    name = "penalty-through-batch-statistics"
    severity = "warning"
    kinds = ()
    why = "The penalty is meant for the gradient at each sample; with batch statistics each output depends on all."
    remedy = "Group, layer or instance normalization in that network, or none."
    mend = "normscope.mend.convert"
    fine = "A penalty that is meant for the batch as a whole."
    reference = "https://arxiv.org/abs/1704.00028"
    causes = ("D7",)
    replaces = ("S20",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """One finding for the model, if any layer used the batch's statistics."""
        history = seen.history
        if history is None or not history.steps or history.penalties / history.steps <= LIMIT:
            return
        live = [layer for layer in history.layers if layer.kind == "batch" and layer.updates]
        if live:
            message = "The gradient at the inputs is penalized, and batch statistics tie the samples together."
            yield self.found(
                "", message, penalties=history.penalties, steps=history.steps, layers=len(live)
            )
