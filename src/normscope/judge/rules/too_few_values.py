"""NS212: per-sample normalization over too few values."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LOST_WARNING = 0.25
LOST_INFO = 0.125


class TooFewValues(Rule):
    """Group, instance, layer or RMS normalization over a set of few values.

    Taking mean and variance out of n values removes 2 of their n degrees of freedom (RMS: 1). With
    one value nothing is left and the output is its bias; with two only the sign of their
    difference. Reported from a quarter on.
    """

    code = "NS212"
    name = "too-few-values"
    severity = "error"
    kinds = ("instance", "group", "layer", "rms")
    why = "The information is divided away, silently: the output is constant, or a sign."
    remedy = "Use fewer groups, normalize before the map becomes that small, or leave the layer out there."
    fine = "Never with one value; sets of a few values where only their direction matters."
    reference = "https://github.com/pytorch/pytorch/issues/19250"
    causes = ("B2", "D3")
    replaces = ("S11", "D12")

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Values behind one statistic, as measured, or as the settings say for layer and RMS
        normalization.
        """
        values = layer.measured.values if layer.measured is not None else 0
        if not values and layer.kind in ("layer", "rms"):
            values = layer.features
        if values < 1 or (layer.kind == "instance" and layer.tracked):
            return
        lost = min((1 if layer.kind == "rms" else 2) / values, 1.0)
        if lost >= 1:
            message = (
                "Each statistic is made of so few values that none of their information is left."
            )
            yield self.found(
                layer.name, message, "error", values=values, lost=lost, limit=LOST_WARNING
            )
        elif lost > LOST_INFO:
            severity = "warning" if lost > LOST_WARNING else "info"
            message = "Each statistic is made of few values: part of their information is normalized away."
            yield self.found(
                layer.name, message, severity, values=values, lost=lost, limit=LOST_WARNING
            )
