"""NS808: running statistics that fall behind the batches'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

RECORDS = 16
LIMIT = 0.5
GROWTH = 3.0


class StatisticsLag(Rule):
    """The distance between running mean and batch mean (95% quantile over channels, in standard
    deviations) grows.

    Its median in the last quarter of the training is above 0.5 and three times that of the second
    quarter. What a batch's own noise makes of the distance is the same in both.
    """

    code = "NS808"
    name = "statistics-lag"
    severity = "warning"
    kinds = ()
    why = "Activations move faster than the running average follows: evaluation gets worse while training looks well."
    remedy = "Lower the learning rate, raise the momentum, or recalibrate before evaluating."
    mend = "normscope.mend.recalibrate"
    fine = "While the learning rate is warmed up."
    reference = "https://discuss.pytorch.org/t/batch-norm-instability/32159"
    causes = ("I4",)
    replaces = ("L08",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Quarters of the recorded steps."""
        for layer in seen.history.layers if seen.history is not None else ():
            lag = np.array(layer.lag)
            quarter = len(lag) // 4
            if len(lag) < RECORDS:
                continue
            earlier, late = (
                float(np.median(lag[quarter : 2 * quarter])),
                float(np.median(lag[-quarter:])),
            )
            if late > LIMIT and late > GROWTH * earlier:
                message = "The running statistics fall further and further behind the batches'."
                step = layer.lag_steps[-1] if layer.lag_steps else None
                yield self.found(
                    layer.name, message, lag=late, earlier=earlier, limit=LIMIT, step=step
                )
