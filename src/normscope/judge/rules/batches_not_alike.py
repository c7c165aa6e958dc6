"""NS504: batches that differ more than chance allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule, high
from normscope.records.examination import Examination

LIMIT = 3.0
CHANCE = 1e-4


class BatchesNotAlike(Rule):
    """Batches differ from one another far more than batches of random samples would.

    F = N Var(batch means) / Var(sample means), of the inputs of batch normalization layers in eval
    mode: 1 for shuffled data. Reported where the median of a layer's channels is above 3 and above
    the value that chance exceeds once in 10,000 (F distribution with K - 1 and K(N - 1) degrees of
    freedom).
    """

    code = "NS504"
    name = "batches-not-alike"
    severity = "warning"
    why = "Each batch is normalized by its own statistics, and no running average stands for all of them."
    remedy = "Shuffle; mix domains within each batch, or give each its own statistics."
    fine = "Real and fake batches of a GAN, episodes, batches grouped by length: as long as eval mode works."
    reference = "https://github.com/scikit-adaptation/skada/issues/252"
    causes = ("H1", "H2", "H3", "H4", "H7")
    replaces = ("D05",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """The first layer speaks for all: what differs at the input differs behind it."""
        forward = seen.forward
        layers = [
            layer for layer in seen.of_kind("batch") if layer.live and layer.measured is not None
        ]
        if forward is None or not layers:
            return
        sizes = forward.batch_sizes
        freedom = sum(sizes) - len(sizes)
        if len(sizes) < 3 or freedom < len(sizes):
            yield self.undecided("at least three batches of two or more samples")
            return
        limit = max(LIMIT, _critical(len(sizes) - 1, freedom))
        medians = {
            layer.name: high(layer.measured.heterogeneity, 0.5)
            for layer in layers
            if layer.measured
        }
        worst = max(medians, key=lambda name: np.nan_to_num(medians[name]))
        if medians[worst] > limit:
            message = "The batches differ from one another far more than chance allows."
            yield self.found(worst, message, F=medians[worst], limit=limit, batches=len(sizes))


def _critical(between: int, within: int) -> float:
    """What F exceeds by chance once in 10,000."""
    from scipy.special import fdtri

    return float(fdtri(between, within, 1 - CHANCE))
