"""NS402: weight decay on normalization parameters."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class DecayedNorm(Rule):
    """The optimizer applies weight decay to the layer's weight and bias."""

    code = "NS402"
    name = "decayed-norm"
    severity = "info"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "Decay pulls the gain to zero instead of the identity; many recipes leave these parameters out."
    remedy = "Give them a parameter group without decay."
    mend = "normscope.mend.weight_decay_groups"
    fine = "PyTorch's default, and part of many published recipes."
    reference = "https://github.com/ultralytics/yolov3/issues/469"
    causes = ("D6",)
    replaces = ("S17",)
    needs = "optimizer"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The decay of its group."""
        if layer.weight_decay:
            yield self.found(
                layer.name, "Its parameters are decayed.", weight_decay=layer.weight_decay
            )
