"""NS201: a momentum that looks like TensorFlow's decay."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, deliberately_frozen
from normscope.records.examination import Examination, Layer

LIMIT = 0.5
DECAYS = (0.9, 0.95, 0.99, 0.995, 0.997, 0.999, 0.9997, 0.9999)


class InvertedMomentum(Rule):
    """momentum is above 0.5: the running statistics are little more than the last batch's.

    PyTorch's momentum is the weight of the new batch; TensorFlow's, Keras's and JAX's is that of
    the old average.
    """

    code = "NS201"
    name = "inverted-momentum"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "Evaluation depends on which batch came last; with small batches accuracy jumps from epoch to epoch."
    remedy = "Use 1 - momentum: TensorFlow's 0.99 is PyTorch's 0.01."
    fine = "Meta-learning that wants the statistics of the last batch (momentum=1); frozen layers, where it is unused."
    reference = "https://github.com/pytorch/vision/pull/8312"
    causes = ("D1",)
    replaces = ("S03",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """The momentum against one half; less severe where the layer is frozen or has no
        statistics.
        """
        m = layer.momentum
        if m is None or not LIMIT < m <= 1 or not layer.tracked:
            return
        severity = "info" if deliberately_frozen(layer, seen) else "warning"
        if any(abs(m - decay) < 1e-9 for decay in DECAYS):
            message = "momentum is a decay as TensorFlow counts it; PyTorch means the weight of the new batch."
        else:
            message = (
                "momentum is so large that the statistics are little more than the last batch's."
            )
        remedy = f"Use momentum={1 - m:.4g}." if m < 1 else ""
        yield self.found(layer.name, message, severity, remedy=remedy, momentum=m, limit=LIMIT)
