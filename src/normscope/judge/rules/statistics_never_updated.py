"""NS103: running statistics that no batch has touched."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, deliberately_frozen
from normscope.records.examination import Examination, Layer


class StatisticsNeverUpdated(Rule):
    """Running mean 0 and variance 1 with no update counted, in a layer of a model that is trained.

    An untrained model is left alone: no weight or bias of its layers has moved, and no counter.
    """

    code = "NS103"
    name = "statistics-never-updated"
    severity = "error"
    why = "In eval mode the layer does not normalize: it passes its input on as if that had mean 0 and variance 1."
    remedy = "Load or copy the buffers too (state_dict, not parameters()), or recalibrate on training batches."
    mend = "normscope.mend.recalibrate"
    fine = "A network trained from scratch with its statistics frozen at (0, 1), or a layer in a branch never used."
    reference = "https://github.com/CuriousAI/mean-teacher/issues/9"
    causes = ("E1", "E2", "F3", "H5")
    replaces = ("S02",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Compare with the other layers: are they trained?"""
        layers = [layer for layer in seen.of_kind("batch") if layer.live and layer.tracked]
        untouched = [layer for layer in layers if layer.at_initialization and not layer.updates]
        others_updated = any(not layer.at_initialization for layer in layers)
        if not others_updated and not any(layer.affine_trained for layer in layers):
            return
        for layer in untouched:
            yield self._judge(layer, seen, others_updated)

    def _judge(self, layer: Layer, seen: Examination, others_updated: bool) -> Finding:
        evidence = {"running_mean": 0, "running_var": 1, "num_batches_tracked": layer.updates}
        if seen.forward is not None and layer.place is None:
            message = "The statistics were never updated, and the forward does not run the layer."
            return self.found(layer.name, message, "info", **evidence)
        if deliberately_frozen(layer, seen):
            message = "The layer is frozen at the statistics of a new layer: it does not normalize."
            return self.found(layer.name, message, "info", **evidence)
        if others_updated:
            message = "The statistics were never updated, while those of other layers were."
            return self.found(layer.name, message, "error", **evidence)
        message = "The affine parameters are trained, but the statistics were never updated or not loaded."
        return self.found(layer.name, message, "warning", **evidence)
