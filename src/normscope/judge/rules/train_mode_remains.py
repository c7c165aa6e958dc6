"""NS302: single layers in train mode inside a model in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class TrainModeRemains(Rule):
    """The model is in eval mode, some of its layers are in train mode."""

    code = "NS302"
    name = "train-mode-remains"
    severity = "warning"
    kinds = ("batch", "instance")
    why = (
        "Those layers use and update batch statistics while the model is believed to be evaluated."
    )
    remedy = "Call eval() on the whole model, after everything that calls train() on a part."
    fine = "Recalibrating chosen layers; test-time adaptation."
    reference = "https://github.com/microsoft/robustdg/issues/30"
    causes = ("A1", "A2")
    replaces = ("S05",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Layers in train mode under a root in eval mode."""
        if seen.training is not False:
            return
        for layer in seen.of_kind(*self.kinds):
            if layer.training and layer.live and layer.tracked:
                message = "The model is in eval mode, the layer in train mode."
                yield self.found(layer.name, message, model_training=False, training=True)
