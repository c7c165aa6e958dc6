"""NS210: batch normalization whose predictions depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer


class NoRunningStatistics(Rule):
    """Batch normalization without running statistics: eval mode uses those of the batch, as train
    mode does.
    """

    code = "NS210"
    name = "no-running-statistics"
    severity = "warning"
    why = "A prediction depends on the samples beside it, a single row raises, and fusion or export fail."
    remedy = "Use track_running_stats=True and recalibrate, or a normalization that looks at single samples."
    mend = "normscope.mend.convert"
    fine = "Meta-learning, generative models and test-time adaptation that want it; an info in train mode."
    reference = "https://github.com/xu-ji/IIC/issues/49"
    causes = ("J1", "H4", "B1")
    replaces = ("S09",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """No buffers, by the model's mode and purpose."""
        if layer.tracked or seen.source == "state_dict" or not layer.live:
            return
        severity = "info" if layer.training and not seen.export else "warning"
        message = "The layer has no running statistics: its output depends on the rest of the batch, also in eval mode."
        yield self.found(layer.name, message, severity, track_running_stats=layer.tracks)
