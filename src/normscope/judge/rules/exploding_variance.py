"""NS107: one channel's variance is out of all proportion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LIMIT = 1e4


class ExplodingVariance(Rule):
    """The largest running variance of a layer is more than 10,000 times the median of its channels."""

    code = "NS107"
    name = "exploding-variance"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "A channel has exploded, or the inputs have no common scale: one learning rate cannot serve them both."
    remedy = "Normalize the inputs, lower the learning rate or clip gradients."
    fine = "A first layer on raw units; depthwise or pruned layers where most channels are all but constant."
    reference = "https://discuss.pytorch.org/t/batch-norm-instability/32159"
    causes = ("I4", "I3")
    replaces = ("D08",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Compare the largest variance with the median."""
        var = layer.running_var
        if var is None or len(var) < 4 or not np.isfinite(var).all():
            return
        largest, median = float(var.max()), float(np.median(var))
        # With the median below eps most channels are constant: that is another matter.
        if median > (layer.eps or 1e-5) and largest > LIMIT * median and largest > 1:
            message = "One channel varies far more than the others."
            yield self.found(
                layer.name,
                message,
                ratio=largest / median,
                limit=LIMIT,
                largest=largest,
                median=median,
            )
