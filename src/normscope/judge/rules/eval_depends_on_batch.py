"""NS503: in eval mode a sample's output depends on the samples beside it."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer

LIMIT, LIMIT_REDUCED = 1e-4, 5e-3


class EvalDependsOnBatch(Rule):
    """In eval mode the first sample's output changes when it comes alone, beyond rounding and
    beyond any randomness.
    """

    code = "NS503"
    name = "eval-depends-on-batch"
    severity = "error"
    kinds = ()
    why = "A prediction is no function of its input: results depend on batch size and order."
    remedy = "Find the layer that is named: it uses batch statistics in eval mode."
    fine = "Layers that are meant to compare samples (minibatch standard deviation, retrieval, attention over a batch)."
    reference = "https://github.com/pytorch/pytorch/pull/115715"
    causes = ("A1", "J1", "J2", "H7")
    replaces = ("D04",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """The relative change of the output, and the first layer at which it begins."""
        forward = seen.forward
        if forward is None:
            return
        change = forward.companions_difference
        if change is None:
            yield self.undecided(forward.companions_failure or "outputs with one row per sample")
            return
        on_cpu = forward.device == "cpu" and not forward.reduced_precision
        limit = max(LIMIT if on_cpu else LIMIT_REDUCED, 3 * (forward.repeat_difference or 0.0))
        if change <= limit:
            return
        culprit = next((layer for layer in seen.layers if _begins_here(layer, limit)), None)
        untracked = culprit is not None and culprit.live and not culprit.tracked
        if culprit is None:
            message = "In eval mode a sample's output depends on its batch, but no normalization layer is the cause."
        else:
            message = "In eval mode a sample's output depends on its batch, from this layer on."
        severity = "error" if culprit is not None and not untracked else "warning"
        if culprit is None and forward.functional_batch_norm:
            severity = "error"
        yield self.found(
            culprit.name if culprit else "", message, severity, change=change, limit=limit
        )


def _begins_here(layer: Layer, limit: float) -> bool:
    measured = layer.measured
    if measured is None or measured.alone_input is None or measured.alone_output is None:
        return False
    return measured.alone_input <= limit < measured.alone_output
