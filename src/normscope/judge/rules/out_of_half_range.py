"""NS110: statistics or an eps that 16 bits cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Examination, Layer

LARGEST = 65504.0
SMALLEST = 2.0**-25
"""What is not above half the smallest subnormal of fp16 rounds to zero."""


class OutOfHalfRange(Rule):
    """eps rounds to zero in fp16 where the layer works in it, or a running variance is above fp16's
    largest number.
    """

    code = "NS110"
    name = "out-of-half-range"
    severity = "error"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "eps 0 turns a constant input into NaN; an infinite variance turns the channel into its bias, silently."
    remedy = "Use eps >= 1e-5 and keep the layer in fp32."
    fine = "A model that will never be cast to fp16: an info."
    reference = "https://github.com/pytorch/pytorch/issues/41527"
    causes = ("I2",)
    replaces = ("S21",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """Values against fp16's range; their severity by whether the layer works in fp16."""
        dtype = layer.place.input_dtype if layer.place is not None else ""
        half = "float16" in (layer.parameter_dtype, layer.statistics_dtype, dtype)
        if half and layer.eps is not None and 0 < layer.eps <= SMALLEST:
            yield self.found(
                layer.name, "eps rounds to zero in fp16.", eps=layer.eps, limit=SMALLEST
            )
        var = layer.running_var
        if var is None:
            return
        large = np.isfinite(var) & (var > LARGEST)
        if channels := count(large):
            severity = "error" if half else "warning" if seen.export else "info"
            message = "A running variance is beyond the range of fp16."
            yield self.found(
                layer.name,
                message,
                severity,
                channels=channels,
                largest=float(var[large].max()),
                limit=LARGEST,
            )
