"""NS109: running statistics or affine parameters in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

HALF = ("float16", "bfloat16")
ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


class LowPrecisionStatistics(Rule):
    """Running statistics are kept in fp16 or bf16."""

    code = "NS109"
    name = "low-precision-statistics"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "An update smaller than half a unit in the last place is lost: with momentum 0.01 bf16 statistics stand still."
    remedy = "Keep normalization layers in fp32 (autocast does); cast only weights of convolutions and linear layers."
    fine = "Inference with a model cast to 16 bits: an info."
    reference = "https://github.com/apple/coreai-torch/pull/54"
    causes = ("I2",)
    replaces = ("S21",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The dtype of the running statistics, and whether they are being updated."""
        dtype = layer.statistics_dtype
        if dtype not in HALF:
            return
        if layer.training and layer.live:
            message = f"The running statistics are updated in {dtype}."
            yield self.found(
                layer.name, message, dtype=dtype, resolution=ULP[dtype], momentum=layer.momentum
            )
        else:
            yield self.found(
                layer.name, f"The running statistics are held in {dtype}.", "info", dtype=dtype
            )
