"""NS802: running statistics that move where nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class MovedWithoutGradients(Rule):
    """A forward without gradients ran in train mode and moved the running statistics.

    Recalibration (momentum=None, or normscope.mend.recalibrate) and checks are left out.
    """

    code = "NS802"
    name = "moved-without-gradients"
    severity = "warning"
    kinds = ()
    why = "Validation data, dummy inputs or generated samples enter the statistics."
    remedy = "Call eval() for validation, and run helpers (summaries, FLOP counters) on a copy in eval mode."
    fine = "A teacher, or pseudo-labels, that are meant to use batch statistics."
    reference = "https://github.com/princeton-vl/pytorch_stacked_hourglass/issues/44"
    causes = ("A2", "A1", "F4")
    replaces = ("L02",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The layers that it happened to, and the first step."""
        for layer in seen.history.layers if seen.history is not None else ():
            if layer.updates_without_grad:
                message = "Forwards without gradients moved the running statistics."
                count, first = layer.updates_without_grad, layer.first_without_grad
                yield self.found(layer.name, message, updates=count, first_step=first, limit=0)
