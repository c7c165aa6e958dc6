"""NS306: frozen statistics, trained affine parameters."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class HalfFrozen(Rule):
    """In a model in train mode the layer is in eval mode, while its weight and bias are trained."""

    code = "NS306"
    name = "half-frozen"
    severity = "info"
    kinds = ("batch", "instance")
    why = "eval() does not stop gradients: the layer is not frozen completely."
    remedy = "Decide: requires_grad_(False) for a full freeze, or leave it if only statistics are to stand still."
    mend = "normscope.mend.freeze"
    fine = "Common and often intended in fine-tuning."
    reference = "https://github.com/idstcv/SoftTriple/issues/4"
    causes = ("F2",)
    replaces = ("S08",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Layers in eval mode with gradients, under a root in train mode."""
        if not seen.training:
            return
        for layer in seen.of_kind(*self.kinds):
            if layer.training is False and layer.trainable and layer.live and layer.tracked:
                message = "The statistics are frozen, the weight and bias are trained."
                yield self.found(layer.name, message, training=False, requires_grad=True)
