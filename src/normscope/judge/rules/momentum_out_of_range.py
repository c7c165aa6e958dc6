"""NS202: a momentum that makes the running average no average."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, deliberately_frozen
from normscope.records.examination import Examination, Layer


class MomentumOutOfRange(Rule):
    """momentum is below 0 or above 1."""

    code = "NS202"
    name = "momentum-out-of-range"
    severity = "error"
    kinds = ("batch", "instance")
    why = "torch accepts it, and the running variance oscillates, grows or becomes negative."
    remedy = "Use a momentum between 0 and 1; 0.1 is PyTorch's default."
    fine = "Never; in a frozen layer it does no harm yet."
    reference = "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html"
    causes = ("D1",)
    replaces = ("S03",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """The momentum against its range."""
        m = layer.momentum
        if m is not None and not 0 <= m <= 1:
            severity = "warning" if deliberately_frozen(layer, seen) else "error"
            yield self.found(
                layer.name, "momentum is outside [0, 1].", severity, momentum=m, limit="[0, 1]"
            )
