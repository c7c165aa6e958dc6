"""NS205: an eps that does not protect from a division by zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

SAFE_VARIANCE = 1e-6


class EpsNotPositive(Rule):
    """eps is zero or negative."""

    code = "NS205"
    name = "eps-not-positive"
    severity = "error"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = (
        "A channel or sample without variance divides by zero, and one NaN spreads over the batch."
    )
    remedy = "Use eps=1e-5, torch's default, unless the weights were trained with another."
    fine = "Zero in a frozen layer none of whose variances is small: a warning."
    reference = "https://github.com/facebookresearch/detectron2/pull/3160"
    causes = ("D2",)
    replaces = ("S04",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """eps against zero; zero in eval mode on large variances is only a warning."""
        if layer.eps is None or layer.eps > 0:
            return
        var = layer.running_var
        safe = var is not None and layer.training is False and bool(np.all(var > SAFE_VARIANCE))
        severity = "warning" if layer.eps == 0 and safe else "error"
        yield self.found(layer.name, "eps is not above zero.", severity, eps=layer.eps, limit=0)
