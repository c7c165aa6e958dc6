"""NS203: train mode with statistics that never move."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class MomentumZero(Rule):
    """momentum is 0 in a layer in train mode: it normalizes with each batch, and eval with
    statistics from before.
    """

    code = "NS203"
    name = "momentum-zero"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "It is taken for a freeze, but training sees batch statistics and evaluation sees the old ones."
    remedy = "To freeze, put the layer in eval mode so that it stays there; to train, use a momentum above 0."
    mend = "normscope.mend.freeze"
    fine = "A layer in eval mode, where momentum is not used: not reported."
    reference = (
        "https://discuss.pytorch.org/t/frozen-batch-normalization-still-shows-different-performance-in-model-train-"
        "from-model-eval/25176"
    )
    causes = ("D1", "F2")
    replaces = ("S03", "S08")

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Momentum 0 in train mode."""
        if layer.momentum == 0 and layer.training and layer.tracked:
            message = "The layer trains with batch statistics and never updates the running ones."
            yield self.found(layer.name, message, momentum=0, training=True)
