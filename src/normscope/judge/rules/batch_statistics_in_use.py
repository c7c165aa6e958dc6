"""NS303: a model in train mode."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class BatchStatisticsInUse(Rule):
    """The model was given in train mode: every forward uses the batch's statistics and moves the
    running ones.
    """

    code = "NS303"
    name = "batch-statistics-in-use"
    severity = "info"
    kinds = ("batch", "instance")
    why = "Right in training; a model that is evaluated, attacked, measured or exported must be in eval mode."
    remedy = "Call model.eval() before anything but training."
    fine = "In training, and where batch statistics at test time are the design."
    reference = "https://github.com/bethgelab/foolbox/issues/74"
    causes = ("A1", "F4")
    replaces = ("S05",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """One finding for the model."""
        layers = [
            layer
            for layer in seen.of_kind(*self.kinds)
            if layer.live and layer.training and layer.tracked
        ]
        if seen.training and layers and not seen.export:
            message = "The model is in train mode: its outputs depend on the batch, and forwards move its statistics."
            yield self.found("", message, layers=len(layers))
