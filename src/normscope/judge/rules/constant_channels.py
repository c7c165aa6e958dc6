"""NS507: channels that are constant in every batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rules.base import Rule, count
from normscope.records.examination import Layer

CONSTANT = 1e-10
SHARE = 0.25


class ConstantChannels(Rule):
    """Channels of the layer's input do not vary in any of the batches."""

    code = "NS507"
    name = "constant-channels"
    severity = "warning"
    why = "The channel carries nothing: its output is the bias. In numbers, a network has died or an input is empty."
    remedy = "Look at what feeds the layer: dead ReLUs, a zero branch, an empty input channel."
    fine = "A few channels; pruned channels (weight near zero) and masked inputs."
    reference = "https://github.com/pytorch/pytorch/issues/5410"
    causes = ("I3", "D8")
    replaces = ("D07",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The variance in eval mode, relative to the mean square; channels with a weight near zero do not count."""
        measured = layer.measured
        if measured is None or measured.eval_var is None or measured.eval_mean is None:
            return
        if measured.values * measured.batches < 8:
            return
        scale = np.maximum(measured.eval_mean**2, (layer.eps or 1e-5) * 1e-3)
        constant = measured.eval_var <= CONSTANT * scale
        if layer.weight is not None:
            constant &= np.abs(layer.weight) > 1e-3
        if channels := count(constant):
            share = channels / len(constant)
            severity = "warning" if share >= SHARE else "info"
            message = "Channels of the input are constant in every batch."
            yield self.found(layer.name, message, severity, channels=channels, of=len(constant), limit=SHARE)
