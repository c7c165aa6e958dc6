"""NS102: a variance below zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Layer


class NegativeVariance(Rule):
    """A running variance is below zero."""

    code = "NS102"
    name = "negative-variance"
    severity = "error"
    kinds = ("batch", "instance")
    why = "No data has such a variance. Below -eps the square root is NaN; above it the channel is amplified wildly."
    remedy = (
        "Look for a momentum outside [0, 1] or a converter that subtracts eps, then recalibrate."
    )
    mend = "normscope.mend.recalibrate"
    fine = "Never."
    reference = "https://github.com/facebookresearch/detectron2/pull/3160"
    causes = ("I3", "D2", "D1")
    replaces = ("S01",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Look at the smallest variance."""
        var = layer.running_var
        if var is not None and (negative := count(var < 0)):
            smallest = float(np.nanmin(var))
            yield self.found(
                layer.name,
                "running_var is negative.",
                channels=negative,
                smallest=smallest,
                limit=0,
            )
