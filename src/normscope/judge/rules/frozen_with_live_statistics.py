"""NS304: frozen parameters, moving statistics."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer


class FrozenWithLiveStatistics(Rule):
    """The layer and the weights around it require no gradient, yet it is in train mode and updates
    its statistics.
    """

    code = "NS304"
    name = "frozen-with-live-statistics"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "requires_grad=False does not freeze buffers: the frozen part computes another function after every forward."
    remedy = "Put the frozen layers in eval mode so that it survives the next train()."
    mend = "normscope.mend.freeze"
    fine = "AdaBN and other re-estimation of statistics; a teacher that is meant to use batch statistics."
    reference = "https://github.com/pytorch/pytorch/issues/86590"
    causes = ("F1", "F4")
    replaces = ("S06",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """No gradient in the layer nor around it, and statistics that move."""
        moves = (
            layer.live
            and layer.training
            and layer.tracked
            and layer.momentum != 0
            and layer.tracks is not False
        )
        scope = layer.scope_trainable if layer.scope_trainable is not None else layer.trainable
        frozen = not layer.trainable and scope is False
        if moves and frozen:
            message = "No parameter here is trained, but the statistics move with every forward in train mode."
            yield self.found(layer.name, message, requires_grad=False, training=True)
