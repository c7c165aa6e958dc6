"""NS105: running statistics that still hold the values they began with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LIMIT = 0.05


class InitializationRemains(Rule):
    """After k updates with momentum m the statistics still hold (1 - m)^k of the initial mean 0 and
    variance 1.

    No variance can then lie below (1 - m)^k. Where one does, the statistics came another way (a
    recalibration, a checkpoint with a new counter), and nothing is said. Nor is it where batches
    were given and the statistics are nearer to theirs than to the mixture.
    """

    code = "NS105"
    name = "initialization-remains"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "Evaluation normalizes with a mixture of real statistics and (0, 1): few steps, or a momentum too small."
    remedy = "Train longer, use a larger momentum, or recalibrate before evaluating."
    mend = "normscope.mend.recalibrate"
    fine = "In the middle of a short training whose model is not evaluated yet."
    reference = "https://github.com/chemprop/chemprop/issues/607"
    causes = ("I4", "D1", "E3")
    replaces = ("L09", "S03")

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """What is left of the initialization, and whether the variances allow it."""
        m, k, var = layer.momentum, layer.updates, layer.running_var
        if m is None or not 0 < m < 1 or not k or var is None or layer.at_initialization:
            return
        remains = (1 - m) ** k
        if remains > LIMIT and np.nanmin(var) >= remains and not _came_another_way(layer, remains):
            message = "The statistics still hold much of their initial values."
            yield self.found(
                layer.name, message, remains=remains, limit=LIMIT, updates=k, momentum=m
            )


def _came_another_way(layer: Layer, remains: float) -> bool:
    """Whether the running statistics are nearer to those of the batches than to these mixed with
    mean 0, variance 1.
    """
    measured = layer.measured
    if measured is None or measured.mean is None or measured.var is None:
        return False
    mean, var = measured.mean, measured.var
    return _distance(layer, mean, var) < _distance(
        layer, (1 - remains) * mean, (1 - remains) * var + remains
    )


def _distance(layer: Layer, mean: np.ndarray, var: np.ndarray) -> float:
    """Of the running statistics from some others: sum over the channels of z and of the log ratio
    of variances.
    """
    eps = layer.eps or 1e-5
    held_mean, held_var = (
        np.asarray(layer.running_mean),
        np.maximum(np.asarray(layer.running_var), 0),
    )
    z = np.abs(held_mean - mean) / np.sqrt(var + eps)
    return float(np.nansum(z + np.abs(np.log((held_var + eps) / (var + eps)))))
