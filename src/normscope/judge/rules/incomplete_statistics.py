"""NS705: one of a pair of statistics, or the same for two layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class IncompleteStatistics(Rule):
    """A layer has only one of running mean and variance, or exactly the statistics of another
    layer.
    """

    code = "NS705"
    name = "incomplete-statistics"
    severity = "error"
    kinds = ("batch", "instance")
    why = "A script that renames or copies entries has dropped or doubled some."
    remedy = "Convert the checkpoint anew and compare the keys one by one."
    fine = "Layers that share statistics, or copies of one block that were not trained since: the latter a warning."
    reference = "https://github.com/torch/nn/issues/1165"
    causes = ("E1",)
    replaces = ("S22",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Pairs within a layer, then equal statistics among layers."""
        layers = seen.of_kind(*self.kinds)
        for layer in layers:
            if (layer.running_mean is None) != (layer.running_var is None):
                lacks = "running_mean" if layer.running_mean is None else "running_var"
                yield self.found(
                    layer.name, f"The layer has no {lacks}, but the other statistic.", missing=lacks
                )
        first: dict[bytes, str] = {}
        for layer in layers:
            mean, var = layer.running_mean, layer.running_var
            if (
                mean is None
                or var is None
                or len(mean) < 4
                or layer.at_initialization
                or not np.any(mean)
            ):
                continue
            earlier = first.setdefault(mean.tobytes() + var.tobytes(), layer.name)
            if earlier != layer.name:
                message = "The layer has exactly another layer's statistics."
                yield self.found(layer.name, message, "warning", same_as=earlier)
