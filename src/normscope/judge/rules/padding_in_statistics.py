"""NS510: padded positions in the statistics."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

SHARE, EFFECT = 0.05, 0.1


class PaddingInStatistics(Rule):
    """More than 5% of the positions are padding, and they change the variance by more than 10%.

    Padding is what the batch's mask says, or the zeros at the end of sequences [N, C, L] or [N, L,
    C] of several lengths. Compared are variances over all positions and over the real ones, median
    over the channels.
    """

    code = "NS510"
    name = "padding-in-statistics"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "Statistics depend on how much padding a batch has: the same sequence is normalized differently."
    remedy = "Use masked statistics, bucket by length, or a normalization per position (LayerNorm)."
    mend = "normscope.mend.convert"
    fine = "Zeros that are data."
    reference = "https://github.com/SeanNaren/deepspeech.pytorch/issues/312"
    causes = ("H8",)
    replaces = ("D09",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The share of padding and what it does to the variance."""
        measured = layer.measured
        if measured is None or measured.padding is None or measured.padding_effect is None:
            return
        if measured.padding > SHARE and measured.padding_effect > EFFECT:
            message = "Padding is counted in the statistics and changes them."
            yield self.found(
                layer.name,
                message,
                padding=measured.padding,
                log_var=measured.padding_effect,
                limit=EFFECT,
            )
