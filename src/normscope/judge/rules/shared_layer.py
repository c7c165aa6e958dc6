"""NS511: one layer for several inputs that are not alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, high
from normscope.records.examination import Layer

Z_LIMIT, LOG_LIMIT = 1.0, 0.7


class SharedLayer(Rule):
    """One batch normalization runs several times in a forward, on inputs with different statistics.

    Compared between calls: means in standard deviations (limit 1) and log variances (limit 0.7),
    75% quantile over the channels.
    """

    code = "NS511"
    name = "shared-layer"
    severity = "warning"
    why = "Each call is normalized by itself in training; in eval mode one pair of statistics must serve them all."
    remedy = "Give each use its own statistics (affine parameters may stay shared), or join the inputs in one call."
    fine = "Uses with like statistics, as in pyramid heads and siamese networks: not reported."
    reference = "https://github.com/keras-team/keras/issues/8794"
    causes = ("G3",)
    replaces = ("D10",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The spread of the calls' statistics."""
        measured = layer.measured
        if (
            measured is None
            or measured.call_mean is None
            or measured.call_var is None
            or not layer.live
        ):
            return
        var = np.maximum(measured.call_var, layer.eps or 1e-5)
        z = high(np.ptp(measured.call_mean, axis=0) / np.sqrt(var.mean(axis=0)), 0.75)
        log = high(np.ptp(np.log(var), axis=0), 0.75)
        if z > Z_LIMIT or log > LOG_LIMIT:
            message = "The layer runs on several inputs whose statistics differ."
            calls = len(measured.call_mean)
            yield self.found(
                layer.name, message, calls=calls, mean_apart=z, log_var_apart=log, limit=LOG_LIMIT
            )
