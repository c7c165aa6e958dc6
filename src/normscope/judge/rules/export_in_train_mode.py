"""NS706: a model that is not ready to be exported."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class ExportInTrainMode(Rule):
    """The model is to be exported, fused, quantized or compiled for inference, and a layer is in
    train mode or has no running statistics.
    """

    code = "NS706"
    name = "export-in-train-mode"
    severity = "error"
    kinds = ("batch", "instance")
    why = "Exporters write inference arithmetic, or fail: the exported model is not the one that was compared."
    remedy = "model.eval() before exporting; running statistics for every batch normalization."
    mend = "normscope.mend.fold"
    fine = "An export for training."
    reference = "https://github.com/microsoft/onnxruntime/issues/3873"
    causes = ("J2", "J1")
    replaces = ("S24",)

    def applies(self, seen: Examination) -> bool:
        """An export was announced."""
        return seen.export and super().applies(seen)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Modes and buffers."""
        for layer in seen.of_kind(*self.kinds):
            if layer.live and layer.training and layer.tracked:
                yield self.found(layer.name, "The layer is in train mode.", training=True)
            if layer.kind == "batch" and not layer.tracked:
                yield self.found(
                    layer.name, "The layer has no running statistics.", running_mean="None"
                )
