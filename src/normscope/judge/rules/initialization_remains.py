"""NS105: running statistics that still hold the values they began with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rules.base import Rule
from normscope.records.examination import Layer

LIMIT = 0.05


class InitializationRemains(Rule):
    """After k updates with momentum m the statistics still hold (1 - m)^k of the initial mean 0 and variance 1.

    No variance can then lie below (1 - m)^k. Where one does, the statistics came another way (a recalibration, a
    checkpoint with a new counter), and nothing is said.
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
        if remains > LIMIT and np.nanmin(var) >= remains:
            message = "The statistics still hold much of their initial values."
            yield self.found(layer.name, message, remains=remains, limit=LIMIT, updates=k, momentum=m)
