"""NS208: layers of one kind with different eps."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class EpsDiffers(Rule):
    """Layers of one class in one model have different eps."""

    code = "NS208"
    name = "eps-differs"
    severity = "info"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "Layers were ported or added with another framework's default: outputs drift from the original's."
    remedy = "Set eps explicitly, to the value that the weights were trained with."
    fine = "A model put together from parts that were trained with different eps."
    reference = "https://github.com/gzuidhof/nn-transfer/pull/3"
    causes = ("D2",)
    replaces = ("S04",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Name the layers of the minority."""
        for type_ in dict.fromkeys(layer.type for layer in seen.layers):
            layers = [
                layer for layer in seen.layers if layer.type == type_ and layer.eps is not None
            ]
            values = [layer.eps for layer in layers]
            usual = max(dict.fromkeys(values), key=values.count, default=None)
            for layer in layers:
                if layer.eps != usual:
                    message = f"eps is not that of the model's other {type_} layers."
                    yield self.found(layer.name, message, eps=layer.eps, others=usual)
