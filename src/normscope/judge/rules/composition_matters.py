"""NS505: predictions with batch statistics depend on who is in the batch."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.judge.rules.train_eval_gap import CHANCE, sign_test
from normscope.records.examination import Examination

LIMIT = 0.03


class CompositionMatters(Rule):
    """With batch statistics the share of right samples changes by more than 3 points when batches
    are mixed anew.

    A sign test on the samples that only one composition gets right rules out chance (p < 0.001).
    """

    code = "NS505"
    name = "composition-matters"
    severity = "warning"
    why = "The batch tells the network about its samples: sorted or paired batches leak the answer, or spoil it."
    remedy = "Shuffle; evaluate in eval mode; in contrastive training, exchange samples between batches before the keys."
    fine = "Episodes, where the batch is the task."
    reference = "https://github.com/facebookresearch/moco/issues/137"
    causes = ("H7", "H6", "A1")
    replaces = ("D06", "D14")
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Batches as given against the same samples mixed."""
        forward = seen.forward
        if forward is None or not any(layer.live for layer in seen.of_kind("batch")):
            return
        if not forward.has_targets or forward.remixed_correct is None:
            yield self.undecided(
                forward.batch_failure or "integer targets, and several batches of one shape"
            )
            return
        first, second = forward.only_given_correct, forward.only_remixed_correct
        points = (first - second) / max(forward.samples, 1)
        if abs(points) > LIMIT and sign_test(max(first, second), min(first, second)) < CHANCE:
            better = "better" if points > 0 else "worse"
            message = f"With batch statistics the batches as given do {better} than the same samples mixed."
            given, mixed = forward.batch_correct, forward.remixed_correct
            yield self.found("", message, given_correct=given, mixed_correct=mixed, limit=LIMIT)
