"""NS604: batches that are sorted by label."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule, has_live_batch_norm
from normscope.records.examination import Examination

LIMIT = 3.0
RUNS = 3.0
CHANCE = 1e-4


class ClassOrderedBatches(Rule):
    """Labels are distributed over the batches far more unevenly than shuffling would.

    Chi-square of labels against batches, over its degrees of freedom: 1 if shuffled. Reported above
    3 and above what chance exceeds once in 10,000. Of a loader that does not shuffle, the order of
    its dataset's labels is judged.
    """

    code = "NS604"
    name = "class-ordered-batches"
    severity = "warning"
    kinds = ()
    why = "Batch statistics become those of a class: training looks easy, eval mode and shuffled data fail."
    remedy = "shuffle=True; in evaluation, eval mode."
    fine = "Evaluation in eval mode; episodes and balanced samplers."
    reference = "https://github.com/ArdhenduBehera/cap/issues/8"
    causes = ("H7",)
    replaces = ("D06", "D05")

    def applies(self, seen: Examination) -> bool:
        """Labels matter where there are batch statistics, or a loader is looked at by itself."""
        return seen.source == "loader" or has_live_batch_norm(seen)

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Labels in the batches given, else in the loader's order."""
        forward, loader = seen.forward, seen.loader
        if forward is not None and forward.labels_in_batches is not None:
            limit = max(LIMIT, _critical(forward.label_freedom))
            if forward.labels_in_batches > limit:
                message = "The labels are not shuffled over the batches."
                yield self.found("", message, ratio=forward.labels_in_batches, limit=limit)
        elif (
            loader is not None and loader.shuffles is False and loader.labels_in_batches is not None
        ):
            if loader.labels_in_batches > LIMIT and (loader.label_runs or 0) > RUNS:
                message = "The loader does not shuffle, and the dataset is sorted by label."
                runs = loader.label_runs
                yield self.found(
                    "", message, ratio=loader.labels_in_batches, run_length=runs, limit=LIMIT
                )
        elif forward is None and (loader is None or loader.shuffles is False):
            yield self.undecided(
                "batches with integer targets, or a loader whose dataset holds its labels"
            )


def _critical(freedom: int) -> float:
    """What chi-square / freedom exceeds by chance once in 10,000."""
    from scipy.special import chdtri

    return float(chdtri(freedom, CHANCE)) / freedom if freedom else LIMIT
