"""NS607: a synchronized layer that some batches pass by."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer


class SynchronizedLayerSkipped(Rule):
    """A SyncBatchNorm layer ran for some of the given batches and not for others."""

    code = "NS607"
    name = "synchronized-layer-skipped"
    severity = "error"
    why = "Its forward waits for all processes: where one of them takes another branch, the others wait for ever."
    remedy = "Run the layer for every batch, take the branch out of its reach, or use group normalization there."
    mend = "normscope.mend.convert"
    fine = "All processes take the same branch in the same step, by a rule that does not look at the data."
    reference = "https://github.com/pytorch/pytorch/issues/44957"
    causes = ("C1",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """The batches in which the layer ran, against those that were given."""
        given = len(seen.forward.batch_sizes) if seen.forward is not None else 0
        ran = layer.measured.batches if layer.measured is not None else 0
        if layer.sync and 0 < ran < given:
            message = (
                "The layer synchronizes with other processes, and does not run for every batch."
            )
            yield self.found(layer.name, message, ran=ran, batches=given)
