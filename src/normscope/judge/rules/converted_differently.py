"""NS702: layers that a conversion changed."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

SYNC = "SyncBatchNorm"
PLAIN = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


class ConvertedDifferently(Rule):
    """The same layer has another eps, or another class, in the two models.

    BatchNorm and SyncBatchNorm are the same function in eval mode and count as one class.
    """

    code = "NS702"
    name = "converted-differently"
    severity = "warning"
    kinds = ()
    why = "The class or setting is not in the checkpoint: weights load without a word and compute something else."
    remedy = "Build both models with the same classes and settings; exclude custom layers from a conversion."
    fine = "A deliberate change of normalization."
    reference = "https://github.com/LabForComputationalVision/bias_free_denoising/issues/3"
    causes = ("C1", "D2", "J2")
    replaces = ("S14", "D13")
    needs = "other"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Classes and eps side by side."""
        for layer in seen.pair.layers if seen.pair is not None else ():
            if layer.type and layer.other_type and not _same(layer.type, layer.other_type):
                message = "The layer is of another class in the other model."
                yield self.found(layer.name, message, type=layer.type, other=layer.other_type)
            if (
                layer.eps is not None
                and layer.other_eps is not None
                and layer.eps != layer.other_eps
            ):
                message = "The layer has another eps in the other model."
                yield self.found(layer.name, message, eps=layer.eps, other=layer.other_eps)


def _same(first: str, second: str) -> bool:
    return first == second or (SYNC in (first, second) and {first, second} & set(PLAIN) != set())
