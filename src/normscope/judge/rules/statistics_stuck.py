"""NS104: statistics that count updates and do not move."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class StatisticsStuck(Rule):
    """Running mean 0 and variance 1 although updates were counted: momentum 0, or a reset after
    which none arrived.
    """

    code = "NS104"
    name = "statistics-stuck"
    severity = "error"
    kinds = ("batch", "instance")
    why = "Batches were seen and nothing was kept: in eval mode the layer does not normalize."
    remedy = (
        "For a recalibration use momentum=None (a cumulative average), not 0.0; then recalibrate."
    )
    mend = "normscope.mend.recalibrate"
    fine = "Never."
    reference = "https://github.com/Lightning-AI/pytorch-lightning/issues/14866"
    causes = ("E3", "D1")
    replaces = ("S02",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Compare the counter with the statistics."""
        if layer.at_initialization and layer.updates:
            message = "Updates were counted, but the statistics are those of a new layer."
            yield self.found(layer.name, message, updates=layer.updates, momentum=layer.momentum)
