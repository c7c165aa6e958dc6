"""NS108: a mean so large that the spread around it is lost in rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Layer

ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LIMIT = 0.05


class OffsetDwarfsSpread(Rule):
    """The mean of a channel's input is so large against its spread that rounding spoils the
    normalized value.

    Statistics are summed in fp32: an error of 2^-24 mean^2 / (var + eps) in a variance from E[x^2]
    - E[x]^2, as some kernels compute it. An input in 16 bits was rounded before: an error of 2^-8
    (bf16) |mean| / std in the value.
    """

    code = "NS108"
    name = "offset-dwarfs-spread"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "The difference of two large numbers is noise: constant inputs come out as anything, eval and train differ."
    remedy = "Center the inputs, remove what adds the offset, or normalize in higher precision."
    fine = "Channels whose weight is zero: those are not reported."
    reference = "https://github.com/pytorch/pytorch/issues/5410"
    causes = ("I3", "I2")
    replaces = ("D08",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The rounding error against the spread, of running and of measured statistics."""
        yield from self._judge(layer, "running", layer.running_mean, layer.running_var)
        if layer.measured is not None:
            yield from self._judge(
                layer, "measured", layer.measured.eval_mean, layer.measured.eval_var
            )

    def _judge(
        self, layer: Layer, which: str, mean: np.ndarray | None, var: np.ndarray | None
    ) -> Iterator[Finding]:
        if mean is None or var is None:
            return
        safe = np.maximum(var, 0) + (layer.eps or 1e-5)
        error = ROUNDING["float32"] * mean**2 / safe
        dtype = layer.place.input_dtype if layer.place is not None else ""
        if dtype in ("float16", "bfloat16"):
            error = np.maximum(error, ROUNDING[dtype] * np.abs(mean) / np.sqrt(safe))
        kept = np.ones(len(mean), bool) if layer.weight is None else np.abs(layer.weight) > 1e-3
        lost = (error > LIMIT) & kept
        if channels := count(lost):
            message = f"The {which} mean dwarfs the spread: rounding spoils the normalized value."
            worst = float(np.nanmax(error[lost]))
            yield self.found(
                layer.name, message, channels=channels, of=len(mean), rounding=worst, limit=LIMIT
            )
