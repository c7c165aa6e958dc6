"""The words and tables around the views: what was found, every seed's value, how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from normscope.judge.claims import compared, judge_all
from normscope.judge.comparison import THRESHOLD_SHARE, GroupSummary
from normscope.judge.evidence.quantities import LEARNED, learned_from
from normscope.judge.headline import counts, counts_text, headlines, passing
from normscope.judge.verdicts import MARK, Verdict, effect_text
from normscope.records.progress import progress_of
from normscope.records.recording import Recording
from normscope.records.run import RunRecord
from normscope.show.figures.provenance import state_of, unfinished
from normscope.show.remarks import Remarks
from normscope.show.report.report_data import ReportData, Study
from normscope.show.terminal import accuracy_text, percent, threshold_text, variation_text
from normscope.show.verdict_text import better_text
from normscope.words import plural

Row = list[str]

LISTED_SEEDS = 8
"""Of more seeds, the values stand as dots on a line instead of a list."""


def summary_rows(data: ReportData) -> list[dict[str, Any]]:
    """One row per arm and learning rate: its arm, its rate, and what the table says of it."""
    return [
        _group(data, study, setting, group)
        for study in data.studies
        for setting, summary in study.summaries.items()
        for group in summary.groups
        if _runs_of(study, setting, group)
    ]


def summary_note(data: ReportData) -> str:
    """Return the meaning of the summary's numbers, and the runs that are left out."""
    if not data.studies:
        return ""
    first = next(iter(data.studies[0].summaries.values())).groups[0].norm
    notes = [unfinished(study.runs) for study in data.studies]
    return " ".join(
        [
            "Accuracy after the last epoch (not the best epoch); ± is the standard deviation over "
            f"seeds. Threshold: {THRESHOLD_SHARE:.0%} of {first}'s mean final accuracy at that "
            f"learning rate; none (–) where {first} has not learned. A network has learned from "
            f"{percent(learned_from(data.runs[0]))} on: {LEARNED:.0%} of the way from guessing to "
            "100%.",
            *(note for note in notes if note),
        ]
    )


Judged = list[tuple[Study, tuple[str, str], list[Verdict]]]


def judge_studies(data: ReportData) -> Judged:
    """Return [(study, the two arms that were compared in it, the verdicts on them)]."""
    arms = [(study, compared(study.runs)) for study in data.studies]
    return [(study, norms, judge_all(study.runs, *norms)) for study, norms in arms]


def conclusion(data: ReportData, judged: Judged) -> dict[str, Any]:
    """What was found, in the words that the commands end with, and the counts of verdicts."""
    found = []
    for study, norms, verdicts in judged:
        observed = passing(_inspected(data, study), study.layer) if study.layer else ""
        for headline in headlines(study.runs, verdicts, norms, observed):
            named = f"{study.name}: {headline.subject}" if len(judged) > 1 else headline.subject
            found.append(headline.to_json() | {"subject": named, "note": headline.note})
    counted = counts(verdict for _, _, verdicts in judged for verdict in verdicts)
    words = {outcome: counts_text({outcome: count}) for outcome, count in counted.items() if count}
    return {"headlines": found, "counts": words}


def _inspected(data: ReportData, study: Study) -> dict[str, list[Recording]]:
    """{norm: its recordings in order of seeds}."""
    runs = data.runs
    found: dict[str, list[Recording]] = {}
    for item in data.watched:
        if item.run is not None and (run := runs[item.run]) in study.runs:
            found.setdefault(run.norm, []).append(item.recording)
    return found


def remarks(data: ReportData) -> list[dict[str, Any]]:
    """What stands out in each recording that belongs to no study, as `summary()` says it."""
    alone = [(item.name, Remarks.of(item.recording)) for item in data.watched if item.run is None]
    return [
        *_difference(data),
        *(
            {"name": name, "seen": said.seen, "sentences": said.sentences, "note": said.left_out}
            for name, said in alone
        ),
    ]


def _difference(data: ReportData) -> list[dict[str, Any]]:
    """Say where two recordings part, where the page shows these two alone, as `diff` says it."""
    if (found := data.difference) is None:
        return []
    seen = f"all that both recorded, at {plural(found.compared, 'step')}"
    sentences = [*found.sentences, *filter(None, [found.growth_sentence])]
    return [
        {
            "name": f"{found.good} against {found.bad}",
            "seen": seen,
            "sentences": sentences,
            "note": "",
        }
    ]


def progress(data: ReportData) -> str:
    """Say how far the studies are, and whether recordings that belong to none are whole."""
    if not data.studies and not data.watched:
        return "Waiting: no run has begun."
    texts = []
    for study in data.studies:
        statuses = {run.directory.name: run.status for run in study.runs}
        training = sum(state_of(run) == "still training" for run in study.runs)
        text = progress_of(study.runs[0].directory.parent.parent, statuses, training).text
        texts.append(f"{study.name}: {text}" if len(data.studies) > 1 else text)
    for item in data.watched:
        if item.run is None:
            is_whole = item.recording.complete
            texts.append(f"{item.name}: {'finished' if is_whole else 'not finished'}.")
    return " ".join(texts)


def verdict_rows(data: ReportData, judged: Judged) -> list[dict[str, Any]]:
    """The claims on which the runs say something, study by study; open ones with what would settle
    them.
    """
    return [
        {
            "claim": f"{verdict.code} {verdict.name}",
            "statement": verdict.statement,
            "subject": (f"{study.name}: " if len(data.studies) > 1 else "")
            + verdict.subject
            + ("" if norms == ("batch", "none") else f", {norms[0]} against {norms[1]}"),
            "verdict": verdict.outcome,
            "mark": f" {MARK}" if verdict.stands else "",
            "qualifiers": ", ".join(verdict.qualifiers),
            "quantity": "; ".join(filter(None, (verdict.quantity, verdict.averaged))),
            "settings": [
                f"{reading.label}: {effect_text(reading.effect, reading.unit, reading.interval)}, "
                f"{reading.outcome}"
                for reading in verdict.settings
            ],
            "effect": effect_text(verdict.effect, verdict.unit, verdict.interval),
            "n": verdict.n,
            "better": better_text(verdict),
            "values": [_arm_values(arm, seeds) for arm, seeds in verdict.values.items()],
            "numbers": [_many(list(seeds.values())) for seeds in verdict.values.values()],
            "needs": verdict.needs,
        }
        for study, norms, verdicts in judged
        for verdict in verdicts
        if verdict.values
    ]


def run_rows(data: ReportData) -> list[dict[str, Any]]:
    """Every run as the page lists it and gives it as CSV."""
    arms = list(data.arms)
    rows = []
    for study in data.studies:
        for run in study.runs:
            arm = data.arm(study, run.norm, study.settings.label(run))
            rows.append(
                {
                    "label": f"{arm}, learning rate {run.learning_rate:g}, seed {run.seed}",
                    "arm": arms.index(arm),
                    "rate": run.learning_rate,
                    "seed": run.seed,
                    "status": state_of(run),
                    "epochs": len(run.epochs["epoch"]),
                    "test_accuracy": run.final("test_accuracy"),
                    "train_loss": run.final("train_loss"),
                    "seconds": _seconds(run),
                    "id": run.directory.name,
                    "error": str(run.meta.get("error") or ""),
                }
            )
    return rows


def made_by(data: ReportData) -> list[Row]:
    """(what, value) pairs: command, hardware, versions, durations, and every setting."""
    runs = data.runs
    rows = [["Written by", data.command]] if data.command else []
    environments = [run.meta.get("environment", {}) for run in runs]
    for part in ("hardware", "versions"):
        described = [environment.get(part, {}) for environment in environments]
        rows += [
            [f"{part.capitalize()}: {key}", value]
            for key, value in _values(described)
            if key not in ("cpu", "cores")
        ]
    seconds = [value for run in runs if (value := _seconds(run)) is not None]
    if seconds:
        text = f"{min(seconds):.1f} to {max(seconds):.1f} s each, {sum(seconds):.0f} s in all"
        text = text if len(seconds) > 1 else f"{seconds[0]:.1f} s"
        rows.append([f"Duration of {plural(len(seconds), 'run')}", text])
    rows += [[f"Setting: {key}", value] for key, value in _values([run.spec for run in runs])]
    rows += [
        [f"Checked with: {name}", version]
        for name, version in _values([c.versions for c in data.checks])
    ]
    for item in data.watched:
        cost = item.recording.cost
        share = f"{cost.fraction:.1%} of the time" if cost.elapsed > 0 else "not measured"
        rows.append([f"Watching: {item.name}", f"{plural(cost.steps, 'step')}, {share}"])
        rows += [[f"Note: {item.name}", note] for note in item.recording.notes]
    return rows


def _arm_values(arm: str, seeds: Mapping[int, float]) -> str:
    if len(seeds) > LISTED_SEEDS:
        return f"{arm}: {_middle(list(seeds.values()), '{:.4g}'.format)}"
    return f"{arm}: " + ", ".join(f"{value:.4g}" for _, value in sorted(seeds.items()))


def _many(values: Sequence[float]) -> list[float]:
    """The values that the page draws as dots, since they are too many to be listed."""
    return [float(f"{value:.6g}") for value in values] if len(values) > LISTED_SEEDS else []


def _middle(values: Sequence[float], say: Callable[[float], str]) -> str:
    low, middle, high = (say(float(at)) for at in np.quantile(values, [0, 0.5, 1]))
    return f"{low} to {high}, median {middle}, {plural(len(values), 'seed')}"


def _values(dictionaries: Iterable[Mapping[str, Any]]) -> list[Row]:
    """[key, its values, each once] over several dictionaries."""
    values: dict[str, dict[str, None]] = {}
    for dictionary in dictionaries:
        for key, value in dictionary.items():
            if value is not None:
                values.setdefault(str(key), {})[_text(value)] = None
    return [[key, " / ".join(found)] for key, found in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seconds(run: RunRecord) -> float | None:
    seconds = run.column("seconds")
    return float(np.nansum(seconds)) if len(seconds) else None


def _runs_of(study: Study, setting: str, group: GroupSummary) -> list[RunRecord]:
    return [
        run
        for run in study.parts[setting]
        if (run.norm, run.learning_rate) == (group.norm, group.learning_rate)
    ]


def _group(data: ReportData, study: Study, setting: str, group: GroupSummary) -> dict[str, Any]:
    own = _runs_of(study, setting, group)
    finals = {run: run.final("test_accuracy") for run in own}
    known = [final for final in finals.values() if final is not None]
    return {
        "arm": list(data.arms).index(data.arm(study, group.norm, setting)),
        "rate": group.learning_rate,
        "accuracy": accuracy_text(group),
        "seeds": _seeds(finals, known),
        "numbers": _many([100 * final for final in known]),
        "n": group.n,
        "threshold": threshold_text(
            group, max((len(run.epochs["epoch"]) for run in own), default=0)
        ),
        "variation": variation_text(group),
        "diverged": group.diverged,
    }


def _seeds(finals: Mapping[RunRecord, float | None], known: Sequence[float]) -> list[str]:
    """Every seed's accuracy, or how its run ended; of many, the middle and what did not finish."""
    if len(known) <= LISTED_SEEDS:
        return [
            f"{run.seed}: {percent(final) if final is not None else _how_far(run)}"
            for run, final in finals.items()
        ]
    others = Counter(state_of(run) for run, final in finals.items() if final is None)
    return [_middle(known, percent), *(f"{count} {state}" for state, count in others.items())]


def _how_far(run: RunRecord) -> str:
    """A run without a result: its status, of one that has not ended how far it is."""
    if run.status != "interrupted":
        return run.status
    return f"{state_of(run)}, epoch {len(run.epochs['epoch'])} of {run.spec['epochs']}"
