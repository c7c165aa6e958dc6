"""NS106: channels that the layer multiplies without measure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Layer

LIMIT = 100.0


class RunawayGain(Rule):
    """A channel's gain |weight| / sqrt(running_var + eps) is above 100 because its variance is
    below eps.

    The input was all but constant while the statistics were gathered; any change in it is noise,
    and is amplified.
    """

    code = "NS106"
    name = "runaway-gain"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "In eval mode a small shift of such a channel becomes a huge activation; in low precision it is noise."
    remedy = "Find out why the channel is constant (dead input, padding, pruning); remove it or use a larger eps."
    fine = "Pruned channels, if their weight is (near) zero as well: those are not reported."
    reference = "https://github.com/pytorch/pytorch/issues/5410"
    causes = ("I3", "D8")
    replaces = ("D07",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The gain of channels whose variance is below eps."""
        var, eps = layer.running_var, layer.eps
        if var is None or eps is None or layer.at_initialization:
            return
        weight = np.ones_like(var) if layer.weight is None else np.abs(layer.weight)
        gain = weight / np.sqrt(np.maximum(var + eps, 1e-30))
        runaway = (gain > LIMIT) & (var < eps) & (var >= 0)
        if channels := count(runaway):
            message = "Channels with next to no variance are amplified."
            largest = float(gain[runaway].max())
            yield self.found(
                layer.name, message, channels=channels, of=len(var), gain=largest, limit=LIMIT
            )
