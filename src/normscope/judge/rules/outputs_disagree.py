"""NS703: two models that should compute the same and do not."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT = 1e-3
SAME_WEIGHTS = 1e-6
DEPENDENCE = 5e-3


class OutputsDisagree(Rule):
    """In eval mode the other model's outputs are off by more than 1 part in 1,000, although it has
    the same weights or is a conversion (fused, exported, compiled); or its outputs depend on the
    batch, which the model's do not.
    """

    code = "NS703"
    name = "outputs-disagree"
    severity = "error"
    kinds = ()
    why = "A conversion in train mode, or one that lost a layer or a setting, computes another function."
    remedy = (
        "Call eval() before converting, compare layer by layer with `normscope diff`, convert anew."
    )
    mend = "normscope.mend.fold"
    fine = "Quantization, whose noise is larger; models whose weights are meant to differ: not reported."
    reference = "https://github.com/microsoft/onnxruntime/issues/3873"
    causes = ("J2", "C1", "D2")
    replaces = ("D13", "D04")
    needs = "other"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """The difference of the outputs, where the weights say that there should be none."""
        pair = seen.pair
        if pair is None:
            return
        if pair.output_difference is None:
            yield self.undecided(
                pair.output_failure or "a few batches, and the other as a model or callable"
            )
            return
        own = seen.forward.companions_difference if seen.forward is not None else None
        others = pair.other_companions_difference
        if others is not None and others > DEPENDENCE and (own or 0.0) <= DEPENDENCE:
            message = "The other model's output depends on the batch, this model's does not."
            yield self.found("", message, change=others, limit=DEPENDENCE)
        converted = (
            pair.weight_distance is None
            or bool(pair.only_here)
            or pair.weight_distance < SAME_WEIGHTS
        )
        if converted and pair.output_difference > LIMIT:
            message = "The two models compute different functions in eval mode."
            yield self.found("", message, difference=pair.output_difference, limit=LIMIT)
