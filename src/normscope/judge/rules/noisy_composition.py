"""NS513: outputs with batch statistics are mostly noise of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT = 0.5


class NoisyComposition(Rule):
    """With batch statistics a sample's output changes by more than half its size with its
    companions.

    Measured by mixing the batches anew; a healthy network at batch 64 shows about 0.15, at batch 2
    about 0.9.
    """

    code = "NS513"
    name = "noisy-composition"
    severity = "warning"
    why = "Training sees mostly the noise of the other samples, and gradients with it."
    remedy = "A larger batch, SyncBatchNorm, or a normalization of single samples."
    mend = "normscope.mend.convert"
    fine = "In eval mode, or an untrained network with an output near zero: an info."
    reference = "https://arxiv.org/abs/1803.08494"
    causes = ("B3", "H6")
    replaces = ("D03",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The noise of composition against one half."""
        forward = seen.forward
        noise = forward.composition_noise if forward is not None else None
        live = [layer for layer in seen.of_kind("batch") if layer.live]
        if forward is None or noise is None or noise <= LIMIT or not live:
            return
        trained = any(layer.updates for layer in live)
        severity = (
            "warning" if seen.training and trained and max(forward.batch_sizes) < 16 else "info"
        )
        message = "With batch statistics outputs depend on the companions more than on the sample."
        yield self.found(
            "", message, severity, noise=noise, limit=LIMIT, batch=max(forward.batch_sizes)
        )
