"""The headline of a study: what was found and how sure it is, in one to three sentences.

Every sentence is composed by rules from verdicts and runs, so that the terminal, the page and the
files say the same words. A sentence that the runs do not allow is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.judge import statistics
from normscope.judge.claims import by_subject, compared, judge_all
from normscope.judge.evidence.cells import Evidence
from normscope.judge.headline_parts import estimate_text, settled, with_each
from normscope.judge.headline_sentences import OWN_BEST, Sentences
from normscope.judge.layer_measures import active_share, layers_before_activations, measure_regions
from normscope.judge.timeline import Timeline
from normscope.judge.verdicts import OUTCOMES, Verdict, family_sentence
from normscope.records.recording import Recording
from normscope.records.run import RunRecord

BEST_RATE = (
    "An arm's own best rate is the one at which its seeds are best on average; a diverged run "
    "counts as guessing."
)
"""What has to be known to read a sentence that begins with OWN_BEST."""


@dataclass(frozen=True)
class Headline:
    """What was found on one network and data set."""

    subject: str  # which network on which data
    sentences: tuple[str, ...]
    settle: str = ""  # what would settle what is open; empty where nothing is
    family: str = ""  # how many verdicts stand together; empty where none says anything

    @property
    def note(self) -> str:
        """What has to be known to read it; empty where it says so itself."""
        return BEST_RATE if any(OWN_BEST in sentence for sentence in self.sentences) else ""

    @property
    def text(self) -> str:
        """All of it in one paragraph."""
        return " ".join(filter(None, (*self.sentences, self.settle)))

    def to_json(self) -> dict[str, Any]:
        """An entry of summary.json."""
        return {
            "subject": self.subject,
            "sentences": list(self.sentences),
            "settle": self.settle,
            "family": self.family,
            "text": self.text,
        }


def headlines(
    runs: Sequence[RunRecord],
    verdicts: Sequence[Verdict] | None = None,
    arms: tuple[str, str] | None = None,
    observed: str = "",
) -> list[Headline]:
    """Return what was found on each network and data set among runs, also of several studies.

    Args:
        verdicts: of every claim on these runs; None judges them.
        arms: those that the verdicts are about; None: those that were compared.
        observed: a sentence on what was seen inside the network (see `passing`).
    """
    if not runs:
        return []
    arms = arms or compared(runs)
    verdicts = judge_all(runs, *arms) if verdicts is None else verdicts
    made = []
    for subject, own in by_subject(runs).items():
        by_code = {verdict.code: verdict for verdict in verdicts if verdict.subject == subject}
        case = Sentences(Evidence(own, subject, *arms), by_code)
        sentences = (
            case.losses(), case.accuracies(), case.other_arms(), case.rates(), observed,
            case.contrary(),
        )  # fmt: skip
        family = family_sentence(list(by_code.values()))
        made.append(Headline(subject, tuple(filter(None, sentences)), case.settle(), family))
    return made


@dataclass(frozen=True)
class Conclusions:
    """What the commands end with, the page begins with and the files hold."""

    headlines: tuple[Headline, ...]
    counts: Mapping[str, int]  # {outcome: claims}, of those on which the runs say something

    def to_json(self) -> dict[str, Any]:
        """Return the entries of a command's JSON file."""
        return {
            "headline": [each.to_json() for each in self.headlines],
            "counts": dict(self.counts),
        }

    def paragraphs(self) -> list[str]:
        """Each headline, with its subject where there are several."""
        several = len(self.headlines) > 1
        return [f"{each.subject}: {each.text}" if several else each.text for each in self.headlines]


def conclude(
    runs: Sequence[RunRecord],
    verdicts: Sequence[Verdict] | None = None,
    arms: tuple[str, str] | None = None,
    observed: str = "",
) -> Conclusions:
    """Return the headlines of the runs and the counts of their verdicts, as of `headlines`."""
    if runs and verdicts is None:
        verdicts = judge_all(runs, *(arms or compared(runs)))
    found = headlines(runs, verdicts, arms, observed)
    return Conclusions(tuple(found), counts(verdicts or ()))


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """{outcome: number of claims}, of those on which the runs say something, in a fixed order."""
    found = Counter(verdict.outcome for verdict in verdicts if verdict.values)
    return {outcome: found[outcome] for outcome in OUTCOMES} if found else {}


def counts_text(counted: Mapping[str, int]) -> str:
    """The counts in a line; a claim that these runs cannot tell is open."""
    words = {"cannot tell": "open"}
    return " · ".join(f"{count} {words.get(key, key)}" for key, count in counted.items() if count)


def passing(recordings: Mapping[str, Sequence[Recording]], layer: str | None = None) -> str:
    """Return a sentence on the share of a layer's outputs, in the last epoch, that lie where the
    activation behind it has a slope, for the first two arms; "" where it cannot be measured.

    Args:
        recordings: {arm: a recording per seed, in the same order of seeds}.
        layer: the layer; None, or one that no activation follows: the first that one follows.
    """
    chosen = list(recordings.items())[:2]
    if len(chosen) < 2 or not all(own for _, own in chosen):
        return ""
    shared = [
        name
        for name in layers_before_activations(chosen[0][1][0])
        if all(name in layers_before_activations(own) for _, each in chosen for own in each)
    ]
    if not shared:
        return ""
    layer = layer if layer in shared else shared[0]
    activation = chosen[0][1][0].layers[layer].activation
    values = [[_last_share(recording, layer) for recording in own] for _, own in chosen]
    if not np.isfinite([value for own in values for value in own]).all():
        return ""
    verb = "pass the ReLU" if activation == "relu" else f"lie where {activation} has a slope"
    words = with_each([arm for arm, _ in chosen])
    shares = [
        f"{np.mean(values[0]):.1f}% of the values of {layer} {verb} {words[0]}",
        f"{np.mean(values[1]):.1f}% {words[1]}",
    ]
    estimate = statistics.compare(*(dict(enumerate(own)) for own in values))
    sure = estimate_text(estimate, settled(estimate))
    return f"In the last epoch {shares[0]}, {shares[1]} ({sure})."


def _last_share(recording: Recording, layer: str) -> float:
    """The share in percent; NaN where no output was recorded in the last epoch."""
    timeline = Timeline.of(recording)
    first, last = timeline.span(timeline.epochs)
    steps, _ = active_share(recording, layer)
    if not ((steps >= first) & (steps <= last)).any():
        return math.nan
    return 100 * measure_regions(recording, layer, first, last).active
