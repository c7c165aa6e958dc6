"""NS603: SyncBatchNorm that has lost something, or has nobody to synchronize with."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class LonelySyncBatchNorm(Rule):
    """A SyncBatchNorm holds modules that the forward passes by, or runs in a single process."""

    code = "NS603"
    name = "lonely-sync-batch-norm"
    severity = "error"
    why = "Converting a layer that also held an activation or a dropout keeps them as children that are never called."
    remedy = "Convert with the library's own converter, or convert before such layers are built."
    fine = "One process: it then is plain batch normalization, an info."
    reference = "https://github.com/LabForComputationalVision/bias_free_denoising/issues/3"
    causes = ("C1",)
    replaces = ("S14",)

    def applies(self, seen: Examination) -> bool:
        """There are synchronized layers."""
        return any(layer.sync for layer in seen.layers)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Children that no forward called, and the number of processes."""
        for layer in seen.layers:
            if layer.sync and layer.place is not None and layer.place.unused_children:
                message = "The layer holds modules that its forward passes by: the conversion has lost them."
                yield self.found(
                    layer.name, message, children=", ".join(layer.place.unused_children)
                )
        if seen.world_size == 1 and not seen.wrapper:
            message = "SyncBatchNorm in a single process is plain batch normalization."
            yield self.found("", message, "info", world_size=1)
