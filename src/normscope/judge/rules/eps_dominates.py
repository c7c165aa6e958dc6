"""NS207: an eps above the variance that it is added to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

WARNING, INFO = 1.0, 0.1


class EpsDominates(Rule):
    """eps is not small against the median variance of what the layer normalizes.

    The normalized value has variance v / (v + eps): one half where they are equal.
    """

    code = "NS207"
    name = "eps-dominates"
    severity = "warning"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "The layer hardly normalizes: it scales by 1 / sqrt(eps), and its output shrinks with its input."
    remedy = "Use a smaller eps if the weights are yet to be trained, or find out why the input is so small."
    fine = "Weights that were trained that way; an untrained network with a small initialization (an info)."
    reference = "https://github.com/gzuidhof/nn-transfer/pull/3"
    causes = ("D2",)
    replaces = ("S04",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """eps against the median of running variances, or of the variances of samples."""
        eps, var = layer.eps, self._variance(layer)
        # From 0.01 on eps itself is the fault, and another rule names it.
        if eps is None or not 0 < eps < 1e-2 or var is None or not var > 0:
            return
        if eps / var > INFO:
            trained = layer.affine_trained or layer.tracked
            severity = "warning" if eps / var > WARNING and trained else "info"
            message = "eps is not small against the variance that it is added to."
            yield self.found(
                layer.name, message, severity, ratio=eps / var, limit=INFO, eps=eps, variance=var
            )

    def _variance(self, layer: Layer) -> float | None:
        if layer.running_var is not None and layer.tracked:
            alive = layer.running_var[layer.running_var > 1e-12]
            return float(np.median(alive)) if len(alive) and np.isfinite(alive).all() else None
        measured = layer.measured
        if measured is None:
            return None
        quantiles = measured.set_mean_square if layer.kind == "rms" else measured.set_var
        return quantiles[1] if len(quantiles) == 3 else None
