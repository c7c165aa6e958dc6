"""NS605: a training loader that gives the samples in their order."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule, has_live_batch_norm
from normscope.records.examination import Examination


class NotShuffled(Rule):
    """The loader does not shuffle."""

    code = "NS605"
    name = "not-shuffled"
    severity = "info"
    kinds = ()
    why = "Neighbours in a dataset are often alike (frames of a video, one class, one site), and share statistics."
    remedy = "shuffle=True in training."
    fine = "A dataset that was shuffled on disk; an evaluation loader."
    reference = "https://github.com/openpifpaf/openpifpaf/pull/308"
    causes = ("H7",)
    replaces = ("D06",)
    needs = "loader"

    def applies(self, seen: Examination) -> bool:
        """As for the order of labels."""
        return seen.source == "loader" or has_live_batch_norm(seen)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The sampler."""
        if seen.loader is not None and seen.loader.shuffles is False:
            message = "The loader gives the samples in the dataset's order."
            yield self.found("", message, sampler=seen.loader.sampler)
