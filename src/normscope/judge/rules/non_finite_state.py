"""NS101: values of a layer that are not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Layer


class NonFiniteState(Rule):
    """A running mean, running variance, weight or bias holds NaN or infinity."""

    code = "NS101"
    name = "non-finite-state"
    severity = "error"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "One overflowing batch writes it and the running average keeps it for ever: training goes on, eval is NaN."
    remedy = "Recalibrate the statistics or restore the last good checkpoint, then look for the batch that overflowed."
    mend = "normscope.mend.recalibrate"
    fine = "Never."
    reference = "https://github.com/pytorch/pytorch/issues/90342"
    causes = ("I1", "D1")
    replaces = ("S01",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Count the channels of every value."""
        for name in ("running_mean", "running_var", "weight", "bias"):
            values = getattr(layer, name)
            if values is not None and not np.isfinite(values).all():
                bad = count(~np.isfinite(values))
                yield self.found(
                    layer.name, f"{name} is not finite.", channels=bad, of=len(values), limit=0
                )
