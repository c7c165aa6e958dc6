"""NS506: batch statistics of too few values."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer

VALUES, SAMPLES = 16, 8


class BatchTooSmall(Rule):
    """A batch gives a channel too few values for a mean and a variance.

    One value: torch raises. Two: the output is +1 and -1 whatever they were. Fewer than 16 values,
    or fewer than 8 samples (values inside an image are no independent ones): statistics are noise.
    One sample, averaged over its positions right behind: zero by construction.
    """

    code = "NS506"
    name = "batch-too-small"
    severity = "error"
    why = "Noisy statistics cost accuracy (10.6 points of error on ImageNet at batch 2); two values lose all but a sign."
    remedy = "A larger batch, SyncBatchNorm, group normalization, or frozen statistics; drop_last for a last batch of 1."
    mend = "normscope.mend.convert"
    fine = "In eval mode, and where the batches given are smaller than those of training: an info."
    reference = "https://arxiv.org/abs/1803.08494"
    causes = ("B1", "B2", "B3", "I5")
    replaces = ("D01",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """Values and samples behind one statistic, in the mode in which the layer was given."""
        measured = layer.measured
        if measured is None or not layer.live or layer.sync:
            return
        uses_batch = layer.training or not layer.tracked
        values, samples = measured.values, measured.samples
        pooled = layer.place is not None and layer.place.pooled_next and samples == 1
        if values == 1:
            message = "A batch gives each channel one value: train mode raises."
        elif values == 2:
            message = "A batch gives each channel two values: train mode makes them +1 and -1, whatever they were."
        elif pooled:
            message = "One sample is normalized and then averaged over its positions: that is zero in train mode."
        elif values < VALUES or samples < SAMPLES:
            message = "A batch gives each channel too few samples for usable statistics."
        else:
            return
        severe = values <= 2 or pooled
        severity = ("error" if severe else "warning") if uses_batch else "info"
        yield self.found(
            layer.name,
            message,
            severity,
            values=values,
            samples=samples,
            limit=f"{VALUES}, {SAMPLES}",
        )
