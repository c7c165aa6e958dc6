"""NS404: a bias that the normalization subtracts again."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class RedundantBias(Rule):
    """The convolution or linear layer whose only reader is this layer has a bias, which the
    normalization subtracts.

    Batch and instance normalization cancel a constant per channel, group normalization only with
    one channel a group.
    """

    code = "NS404"
    name = "redundant-bias"
    severity = "info"
    kinds = ("batch", "instance", "group")
    why = "It gets no gradient, costs memory, and may drift with weight decay or noise."
    remedy = "bias=False in the layer before; in a trained model it is harmless."
    fine = "Weights that were trained with it."
    reference = "https://github.com/ClementPinard/FlowNetPytorch/issues/81"
    causes = ("D5",)
    replaces = ("S16",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """What feeds the layer in a real forward."""
        place = layer.place
        cancels = layer.live and (layer.kind != "group" or layer.groups == layer.features)
        if place is not None and place.bias_before and place.sole_consumer and cancels:
            message = "The bias before the layer is subtracted again."
            yield self.found(layer.name, message, bias_of=place.fed_by_module or place.fed_by)
