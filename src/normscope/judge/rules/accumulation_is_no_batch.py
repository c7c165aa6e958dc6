"""NS806: gradient accumulation does not enlarge the batch of a normalization."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class AccumulationIsNoBatch(Rule):
    """Several batches make one optimizer step, and each is normalized by itself."""

    code = "NS806"
    name = "accumulation-is-no-batch"
    severity = "info"
    kinds = ()
    why = "Statistics are those of the small batches: 4 times 16 is not 64 to batch normalization."
    remedy = "A larger batch, group normalization or frozen statistics; a smaller momentum for the running ones."
    mend = "normscope.mend.convert"
    fine = "Small batches that are large enough, 16 and more samples; hence an info. NS506 judges the batch itself."
    reference = "https://github.com/ultralytics/yolov5/issues/1630"
    causes = ("B4",)
    replaces = ("L06",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """One finding for the model, by the samples of an update."""
        history = seen.history
        if history is None or (history.accumulation or 1) < 2:
            return
        samples = [
            layer.samples for layer in history.layers if layer.kind == "batch" and layer.samples
        ]
        if samples:
            message = "Gradients are accumulated over several batches, statistics are not."
            effective = min(samples) * (history.accumulation or 1)
            yield self.found("", message, samples=min(samples), accumulated=effective)
