"""NS805: the first value that was not finite."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class NonFiniteInTraining(Rule):
    """In training, a layer's batch statistics, buffers or parameters became NaN or infinite."""

    code = "NS805"
    name = "non-finite-in-training"
    severity = "error"
    kinds = ()
    why = "Running statistics keep it: the loss may recover, evaluation does not."
    remedy = "Look at the batch of that step; clamp or compute in fp32 before the layer; recalibrate or roll back."
    mend = "normscope.mend.recalibrate"
    fine = "Never in running statistics; a gradient that a scaler skips."
    reference = "https://github.com/pytorch/pytorch/issues/90342"
    causes = ("I1",)
    replaces = ("L05",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The first layer of those with the earliest step."""
        layers = seen.history.layers if seen.history is not None else ()
        hit = [layer for layer in layers if layer.first_non_finite is not None]
        first = min((layer.first_non_finite or 0 for layer in hit), default=0)
        layer = next((layer for layer in hit if layer.first_non_finite == first), None)
        if (
            layer is not None
        ):  # in that step they are in the model's order, and the values spread along it
            message = "A value that is not finite appeared here first."
            yield self.found(layer.name, message, step=first, layers_later=len(hit) - 1)
