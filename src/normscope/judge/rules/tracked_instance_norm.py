"""NS209: instance normalization that is none in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class TrackedInstanceNorm(Rule):
    """InstanceNorm with track_running_stats=True: in eval mode it uses averages over images, not
    each image's own.
    """

    code = "NS209"
    name = "tracked-instance-norm"
    severity = "warning"
    kinds = ("instance",)
    why = "Train and eval compute different functions, and the difference is what instance normalization is for."
    remedy = "Use track_running_stats=False, the default."
    fine = "Rarely: a network whose evaluation was meant to use the averages."
    reference = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/395"
    causes = ("D3",)
    replaces = ("S10",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The flag."""
        if layer.tracks:
            message = "In eval mode the layer normalizes with averages over images."
            yield self.found(layer.name, message, track_running_stats=True)
