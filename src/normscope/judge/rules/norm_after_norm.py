"""NS406: a normalization of what was just normalized."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class NormAfterNorm(Rule):
    """Batch normalization is fed by another normalization layer, with nothing in between."""

    code = "NS406"
    name = "norm-after-norm"
    severity = "info"
    kinds = ("batch", "instance", "group")
    why = "The first layer's affine parameters are divided out again: they train towards nothing."
    remedy = "Keep one of them."
    fine = "Normalizing on different axes; layers that are left from joining two networks."
    reference = "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html"
    causes = ("D7",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Layers whose input is the output of one of their own kind."""
        kinds = {layer.name: layer.kind for layer in seen.layers}
        for layer in seen.of_kind(*self.kinds):
            place = layer.place
            if (
                place is not None
                and place.fed_by == "norm"
                and kinds.get(place.fed_by_module) == layer.kind
            ):
                message = "The layer normalizes what a layer of its kind has just normalized."
                yield self.found(layer.name, message, fed_by=place.fed_by_module)
