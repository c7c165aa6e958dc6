"""NS301: layers that eval() does not reach."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer


class StaysInTrainMode(Rule):
    """After model.eval() the layer is still in train mode, or batch statistics are used outside of
    any layer.
    """

    code = "NS301"
    name = "stays-in-train-mode"
    severity = "error"
    kinds = ()
    why = "Predictions depend on the batch, and evaluation overwrites the running statistics."
    remedy = (
        "Let train() and eval() reach every layer, and pass training=self.training to F.batch_norm."
    )
    fine = "Never in a model that is evaluated."
    reference = "https://github.com/pytorch/pytorch/pull/115715"
    causes = ("A1", "J2")
    replaces = ("S05",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The modes after eval(), and F.batch_norm(training=True) seen in an eval forward."""
        for layer in seen.of_kind("batch", "instance"):
            if layer.live and layer.training_after_eval and _matters(layer):
                yield self.found(
                    layer.name, "model.eval() leaves the layer in train mode.", training=True
                )
        for name in seen.forward.functional_batch_norm if seen.forward is not None else ():
            message = "F.batch_norm runs with training=True in eval mode."
            yield self.found(name, message, training=True)


def _matters(layer: Layer) -> bool:
    """Without running statistics both modes are the same: another rule's matter."""
    return layer.tracked
