"""NS502: outputs that are worse in eval mode than with batch statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

DISAGREEMENT, NOISE_FACTOR = 0.05, 2.0
POINTS_WARNING, POINTS_ERROR = 0.03, 0.10
CHANCE = 1e-3


class TrainEvalGap(Rule):
    """The same samples get other predictions in eval mode than with batch statistics (dropout off
    in both).

    With targets: eval gets fewer of them right, by more than 3 points (error: 10), and a sign test
    on the samples that only one of the two gets right says that this is no chance (p < 0.001).
    Without: more than 5% of the classes differ beyond what differs between two compositions of the
    batches, and the outputs differ by more than twice the noise of composition.
    """

    code = "NS502"
    name = "train-eval-gap"
    severity = "error"
    why = "What was trained is not what is evaluated."
    remedy = "Recalibrate; if the gap remains, batches are too small or not alike."
    mend = "normscope.mend.recalibrate"
    fine = "Batches from another domain than the training data."
    reference = "https://github.com/chemprop/chemprop/issues/607"
    causes = ("A1", "A3", "B3", "D7", "E1", "E2", "E3", "E4", "F2", "H3", "H4", "I4")
    replaces = ("D03",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """With targets by what is right, without by what differs."""
        forward = seen.forward
        tracked = any(layer.live and layer.tracked for layer in seen.of_kind("batch"))
        if forward is None or not tracked or seen.untrained:
            return
        if forward.batch_failure:
            yield self.undecided(f"a forward with batch statistics: {forward.batch_failure}")
        elif forward.gap is None:
            yield self.undecided("outputs with one row per sample")
        elif forward.disagreement is None:
            yield self.undecided("class scores as outputs, or a metric of your own")
        elif result := _gap(seen):
            severity = (
                "error"
                if result["points"] > POINTS_ERROR and seen.training is not True
                else "warning"
            )
            known = forward.has_targets
            message = (
                "Eval mode gets fewer samples right than batch statistics do."
                if known
                else "Eval mode predicts other classes than batch statistics do."
            )
            yield self.found("", message, severity if known else "warning", **result)


def harm(seen: Examination) -> bool:
    """Eval mode is measurably worse than batch statistics."""
    return bool(_gap(seen))


def _gap(seen: Examination) -> dict[str, Any]:
    """The evidence for a gap, {} if there is none beyond chance."""
    forward = seen.forward
    if forward is None or forward.disagreement is None or forward.gap is None:
        return {}
    if forward.has_targets:
        lost, won = forward.only_batch_correct, forward.only_eval_correct
        points = (lost - won) / max(forward.samples, 1)
        if points > POINTS_WARNING and sign_test(lost, won) < CHANCE:
            reference = (
                forward.remixed_correct
                if forward.remixed_correct is not None
                else forward.batch_correct
            )
            facts = {"eval_correct": forward.eval_correct, "batch_correct": reference}
            return {**facts, "points": points, "limit": POINTS_WARNING, "samples": forward.samples}
        return {}
    noise, base = forward.composition_noise, forward.composition_disagreement
    if noise is None or base is None:
        return {}
    chance = 3 * math.sqrt(DISAGREEMENT * (1 - DISAGREEMENT) / max(forward.samples, 1))
    limit = DISAGREEMENT + base + chance
    if forward.disagreement > limit and forward.gap > NOISE_FACTOR * noise:
        return {
            "disagreement": forward.disagreement, "limit": limit, "gap": forward.gap, "noise": noise, "points": 0.0,
            "samples": forward.samples,
        }  # fmt: skip
    return {}


def sign_test(first: int, second: int) -> float:
    """The chance that of first + second fair coins so many or more fall on the first side."""
    from scipy.special import bdtrc

    total = first + second
    return float(bdtrc(first - 1, total, 0.5)) if total and first else 1.0
