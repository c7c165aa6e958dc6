"""NS508: an output that does not vary although the input does."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LIMIT = 1e-3


class VanishedOutput(Rule):
    """The normalized value is all but constant over samples, channels and positions while the input
    varies.
    """

    code = "NS508"
    name = "vanished-output"
    severity = "error"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "Nothing of the input passes the layer: the network cannot learn through it."
    remedy = "Look at the size of the normalized sets, at eps, and at the running variance."
    fine = "Never; a weight of zero is left to another rule."
    reference = "https://github.com/pytorch/pytorch/issues/19250"
    causes = ("B2", "D2", "I2")
    replaces = ("D12",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The spread of the normalized value in eval mode; of a healthy layer it is near 1."""
        measured = layer.measured
        if measured is None or measured.output_spread is None or not measured.input_spread:
            return
        if layer.foreign and layer.kind in ("layer", "rms"):
            return
        if measured.output_spread < LIMIT and measured.input_spread > LIMIT:
            message = "The input varies, the normalized value does not."
            spread, given = measured.output_spread, measured.input_spread
            yield self.found(
                layer.name, message, output_spread=spread, input_spread=given, limit=LIMIT
            )
