"""NS807: processes whose running statistics differ."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT = 0.25


class RanksApart(Rule):
    """The running means of two processes are more than a quarter of a standard deviation apart."""

    code = "NS807"
    name = "ranks-apart"
    severity = "warning"
    kinds = ()
    why = "Only one process's statistics are saved; they are those of its share of the data, or of a hook run on it."
    remedy = "Share the data out at random, use SyncBatchNorm, or recalibrate on all of it before saving."
    mend = "normscope.mend.recalibrate"
    fine = "Never, if one checkpoint is to stand for all."
    reference = "https://github.com/facebookresearch/detectron2/issues/5398"
    causes = ("C2", "C1")
    replaces = ("L07",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The distance at the last step that was recorded."""
        for layer in seen.history.layers if seen.history is not None else ():
            if layer.rank_distance is not None and layer.rank_distance > LIMIT:
                message = "The processes' running statistics are apart."
                yield self.found(layer.name, message, means_apart=layer.rank_distance, limit=LIMIT)
