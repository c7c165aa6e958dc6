"""NS507: channels that are constant in every batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, count
from normscope.records.examination import Examination, Layer

CONSTANT = 1e-10
SHARE = 0.25


class ConstantChannels(Rule):
    """Channels of the layer's input do not vary in any of the batches."""

    code = "NS507"
    name = "constant-channels"
    severity = "warning"
    why = "The channel carries nothing: its output is the bias. In numbers, a network has died or an input is empty."
    remedy = "Look at what feeds the layer: dead ReLUs, a zero branch, an empty input channel."
    fine = "A few channels; an untrained network; pruned channels (weight near zero) and masked inputs."
    reference = "https://github.com/pytorch/pytorch/issues/5410"
    causes = ("I3", "D8")
    replaces = ("D07",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """The variance relative to the squared mean; channels with a weight near zero do not count."""
        measured = layer.measured
        if measured is None or measured.values * measured.batches < 8:
            return
        # With batch statistics in use before it, a layer's input has its full scale also in an
        # untrained network.
        usable = measured.mean is not None and measured.values > 1
        mean, var = (
            (measured.mean, measured.var) if usable else (measured.eval_mean, measured.eval_var)
        )
        if mean is None or var is None:
            return
        constant = var <= CONSTANT * np.maximum(mean**2, (layer.eps or 1e-5) * 1e-3)
        if layer.weight is not None:
            constant &= np.abs(layer.weight) > 1e-3
        if channels := count(constant):
            share = channels / len(constant)
            severity = "warning" if share >= SHARE and not seen.untrained else "info"
            message = "Channels of the input are constant in every batch."
            yield self.found(
                layer.name, message, severity, channels=channels, of=len(constant), limit=SHARE
            )
