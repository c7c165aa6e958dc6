"""The numbers of docs/results, made again from the records that are committed beside them.

python benchmarks/published.py

Prints every table whose rows follow from records, as the pages have it, and says which lines a page
lacks. The suite does the same (tests/test_results.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from normscope.judge.claims import compared, judge_all
from normscope.judge.evidence.cells import value_of
from normscope.judge.evidence.quantities import held_out_loss
from normscope.judge.verdicts import Verdict, effect_text
from normscope.records.run import RunRecord, load_run, run_folders

RESULTS = Path(__file__).parents[1] / "docs" / "results"

SAID = {
    "C101": "fewer epochs to 90% of what the network without normalization ends with",
    "C201": "higher final test accuracy",
    "C204": "the more accurate run, seed by seed, more often (of the seeds, wins minus losses)",
    "C301": "the stem gradient varies less from step to step",
    "C302": "its norm stays the same over the epochs",
    "C401": "the normalized tensor is nearer to N(0, 1) (distance)",
    "C403": "the block output drifts less",
    "C404": "its spread grows less",
    "C701": "inputs of the last activation in its active region, percent",
    "C801": "channel means that later layers see vary less from batch to batch",
    "C901": "running statistics are nearer to the data than a batch is",
    "C902": "test accuracy without eval() in batches of 128 against batches of 8, percent",
}
"""{claim: what it says, after "with batch normalization"} of the page on thirty epochs."""


CONTINUED = {"quick-until-decided": "quick"}
"""{study: the one whose runs it goes on from}."""


def runs_of(study: str) -> list[RunRecord]:
    """The runs of a published study, those that it goes on from among them."""
    own = [load_run(folder) for folder in run_folders(RESULTS / study)]
    return [*(runs_of(CONTINUED[study]) if study in CONTINUED else ()), *own]


@cache
def judged(study: str) -> list[Verdict]:
    """Every claim on the runs of a published study."""
    runs = runs_of(study)
    return judge_all(runs, *compared(runs))


def accuracies(runs: Iterable[RunRecord], norm: str, rate: float | None = None) -> list[float]:
    """Final test accuracies in percent, by seed."""
    chosen = (run for run in runs if run.norm == norm and rate in (None, run.learning_rate))
    return [100 * (run.final("test_accuracy") or 0) for run in sorted(chosen, key=lambda r: r.seed)]


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "−")


def thirty_epochs() -> list[str]:
    """Rows of cifar10-30-epochs: accuracies, and a line for each claim that has values."""
    runs = runs_of("cifar10-30-epochs")
    arms = {norm: np.array(accuracies(runs, norm)) for norm in ("batch", "none")}
    verdicts = {verdict.code: verdict for verdict in judged("cifar10-30-epochs")}
    rows = [
        f"| {norm} | {', '.join(f'{value:.1f}' for value in values)} | "
        f"{values.mean():.2f} ± {values.std(ddof=1):.2f} | "
        for norm, values in arms.items()
    ]
    by_seed = ", ".join(_signed(value, ".1f") for value in arms["batch"] - arms["none"])
    low, high = verdicts["C201"].interval or (np.nan, np.nan)
    difference = f"{_signed(verdicts['C201'].effect or np.nan, '.2f')}, interval "
    rows.append(f"| difference, by seed | {by_seed} | {difference}{low:.2f} to {high:.2f} | ")
    return rows + [_claim_row(verdicts[code], words) for code, words in SAID.items()]


def _claim_row(verdict: Verdict, words: str) -> str:
    ratio = verdict.unit == "times"

    def shown(value: float) -> str:
        if ratio:
            return f"{value:.3g}"
        return _signed(value, ".0f" if abs(value) >= 100 else ".2f")

    low, high = (shown(end) for end in verdict.interval or (np.nan, np.nan))
    values = " against ".join(
        ", ".join(f"{value:.3g}" for _, value in sorted(of.items()))
        for of in verdict.values.values()
    )
    unit = "" if ratio else f" {verdict.unit}"
    mark = " †" if verdict.stands else ""
    effect = f"{'×' if ratio else ''}{shown(verdict.effect or np.nan)}{unit}"
    return (
        f"| {verdict.code} | {words} | **{verdict.words}**{mark} | {effect} | {low} to {high} | "
        f"{values} |"
    )


def learning_rates() -> list[str]:
    """Rows of cifar10-learning-rates: accuracies at each rate."""
    runs = runs_of("cifar10-learning-rates")
    rows = []
    for rate in sorted({run.learning_rate for run in runs}):
        arms = [accuracies(runs, norm, rate) for norm in ("batch", "none")]
        seeds = [", ".join(f"{value:.1f}%" for value in values) for values in arms]
        difference = np.mean(arms[0]) - np.mean(arms[1])
        rows.append(f"| {rate:g} | {seeds[0]} | {seeds[1]} | {_signed(float(difference), '.1f')}")
    return rows


def first(study: str) -> list[str]:
    """Rows of a study: accuracies of each norm."""
    runs = runs_of(study)
    rows = []
    for norm in (norm for norm in ("batch", "none") if any(run.norm == norm for run in runs)):
        values = np.array(accuracies(runs, norm))
        seeds = ", ".join(f"{value:.1f}%" for value in values)
        spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        rows.append(f"| {norm} | {len(values)} | {seeds} | {values.mean():.1f}%{spread} |")
    return rows


def plain_float32() -> list[str]:
    """Rows of cifar10-fp32, beside those of cifar10-first."""
    own, other = runs_of("cifar10-fp32"), runs_of("cifar10-first")
    rows = []
    for norm in ("batch", "none"):
        seeds = (accuracies(runs, norm) for runs in (own, other))
        cells = (", ".join(f"{value:.1f}%" for value in values) for values in seeds)
        rows.append(f"| {norm} | {' | '.join(cells)} |")
    return rows


def bird_and_aeroplane() -> list[str]:
    """Cells of bird-and-aeroplane that follow from records and from inspection.json."""
    runs = runs_of("bird-and-aeroplane")
    cells = []
    for norm in ("batch", "none"):
        own = sorted((run for run in runs if run.norm == norm), key=lambda run: run.seed)
        train, test = (
            [100 * (run.final(f"{of}_accuracy") or 0) for run in own] for of in ("train", "test")
        )
        cells += [
            f"train {', '.join(f'{value:.1f}' for value in train)}%",
            f"test {', '.join(f'{value:.1f}' for value in test)}% (mean {np.mean(test):.1f}%)",
        ]
    numbers = RESULTS / "bird-and-aeroplane" / "layer_numbers.json"
    of_the_layer = json.loads(numbers.read_text()) if numbers.is_file() else []
    return [*cells, *_regions(), *layer_cells(of_the_layer)]


def layer_cells(numbers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cells of the page on what is inside the layer, of `layer_numbers.py`: ranges over the
    channels, averaged over the seeds, in the first and in the last epoch.
    """
    if not numbers:
        return []
    ends = min(each["epoch"] for each in numbers), max(each["epoch"] for each in numbers)

    def mean(of: Callable[[np.ndarray], float], name: str, epoch: int) -> float:
        return float(np.mean([of(np.array(n[name])) for n in numbers if n["epoch"] == epoch]))

    def reach(name: str, epoch: int, form: str = ".2f", times: float = 1) -> str:
        low, high = (f"{times * mean(of, name, epoch):{form}}" for of in (np.min, np.max))
        return f"{low} to {high}".replace("-", "−")

    near = [f"{100 * mean(np.mean, 'within_half', epoch):.0f}%" for epoch in ends]
    wide, moved = (
        [reach(*arguments[:1], epoch, *arguments[1:]) for epoch in ends]
        for arguments in (("input_std",), ("batch_to_batch", ".1f", 100))
    )
    skewed = mean(lambda values: float(np.median(np.abs(values))), "output_skewness", ends[1])
    tailed = mean(np.median, "output_excess_kurtosis", ends[1])
    learned = [
        f"{name} {reach(name, ends[1])} (mean {mean(np.mean, name, ends[1]):.2f})"
        for name in ("weight", "bias")
    ]
    return [
        f"{near[0]} of the input values in epoch {ends[0]}, {near[1]} in epoch {ends[1]}",
        f"{wide[0]} in epoch {ends[0]}, {wide[1]} in epoch {ends[1]}",
        f"median skewness {skewed:.1f} in size, median excess kurtosis {tailed:.1f} in epoch "
        f"{ends[1]}",
        f"vary by {moved[0]}% of the channel's own standard deviation in epoch {ends[0]}, "
        f"{moved[1]}% in epoch {ends[1]}",
        ", ".join(learned).replace("-", "−"),
    ]


def _regions() -> list[str]:
    """The rows of the table of activation regions: mean of the seeds, from inspection.json."""
    content = json.loads((RESULTS / "bird-and-aeroplane" / "inspection.json").read_text())
    shares: dict[tuple[str, int, str], list[float]] = {}
    for entry in content["activation_regions"]:
        key = (entry["layer"], entry["epoch"], entry["norm"])
        shares.setdefault(key, []).append(100 * entry["named"])
    layers = list(dict.fromkeys(layer for layer, _, _ in shares))
    epochs = sorted({epoch for _, epoch, _ in shares})
    ends = [(epoch, norm) for epoch in (epochs[0], epochs[-1]) for norm in ("batch", "none")]
    return [
        " | ".join(f"{np.mean(shares[layer, epoch, norm]):.0f}%" for epoch, norm in ends)
        for layer in layers
    ]


def transformers(study: str) -> list[str]:
    """Rows of a study of transformers: claims that have a value, and the mean loss of every arm."""
    runs = runs_of(study)
    found = judged(study)
    verdicts = [v for v in found if v.code.startswith("C20") and len(v.code) == 5 and v.n > 1]
    rows = []
    for v in verdicts:
        effect = effect_text(v.effect, v.unit, v.interval).replace("-", "−")
        mark = " †" if v.stands else ""
        rows.append(f"| {v.code} | {v.subject.split()[0]} | {effect} | {v.n} | {v.words}{mark} |")
    return rows + _losses(runs)


def _losses(runs: Iterable[RunRecord]) -> list[str]:
    """A row for each arm of the study that was trained: loss and accuracy, mean of the seeds."""
    arms: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        spec = run.spec
        if spec["crop_padding"]:
            continue  # of the study of initialization
        told = [f"{run.learning_rate:g}", f"depth {value_of(run, 'depth')}"]
        told += [str(value_of(run, "placement"))] if value_of(run, "placement") != "pre" else []
        told += ["queries and keys normalized"] if spec.get("qk_norm") else []
        told += [f"warm-up {spec['warmup']}"] if spec.get("warmup") else []
        told += [f"factor {scale}"] if (scale := spec.get("embedding_scale")) else []
        told += [f"share 1/{1 / spec['train_share']:g}"] if spec.get("train_share", 1) < 1 else []
        arms.setdefault((spec["model"], run.norm, ", ".join(told)), []).append(run)
    rows = []
    for arm, own in sorted(arms.items()):
        loss = np.mean([held_out_loss(run) or np.nan for run in own])
        accuracy = 100 * np.mean([run.final("test_accuracy") or 0 for run in own])
        rows.append(f"| {' | '.join(arm)} | {loss:.3f} | {accuracy:.1f} | {len(own)} |")
    return rows


def claim_rows(study: str) -> list[str]:
    """A row for each claim that has values, with the mean of either arm, and the counts."""
    verdicts = [verdict for verdict in judged(study) if verdict.values]
    rows = []
    for v in verdicts:
        means = " against ".join(f"{np.mean(list(of.values())):.3g}" for of in v.values.values())
        effect = effect_text(v.effect, v.unit, v.interval).replace("-", "−")
        mark = " †" if v.stands else ""
        rows.append(f"| {v.code} {v.name} | **{v.words}**{mark} | {effect} | {means} | {v.n} |")
    counts = {
        verdict.outcome: sum(other.outcome == verdict.outcome for other in verdicts)
        for verdict in verdicts
    }
    return [*rows, *(f"{count} {outcome}" for outcome, count in counts.items())]


def cpu_record() -> list[str]:
    """Rows of cpu-record: every study in its folder, and the thirty epochs, the fastest first."""
    own = sorted(folder.parent for folder in (RESULTS / "cpu-record").glob("*/runs"))
    rows = []
    for folder in (RESULTS / "cifar10-30-epochs", *own):
        runs = [run for run in runs_of(str(folder.relative_to(RESULTS))) if run.norm == "batch"]
        seconds = [float(run.column("seconds").sum()) for run in runs]
        found, first_run = accuracies(runs, "batch"), runs[0]
        cells = (
            f"{np.mean(seconds):,.0f} ({min(seconds):,.0f} to {max(seconds):,.0f})",
            f"{np.mean(found):.2f} ({', '.join(f'{value:.1f}' for value in found)})",
            f"{first_run.meta['threads']}",
            f"{first_run.meta['environment']['hardware']['cpu']}",
            f"{folder.name}: {_recipe(first_run.spec)}",
        )
        rows.append((np.mean(seconds), f"| {' | '.join(cells)} |"))
    return [row for _, row in sorted(rows)]


def _recipe(spec: Mapping[str, Any]) -> str:
    """The settings of a small-resnet that decide how fast it is and what it reaches."""
    widths = " ".join(map(str, spec["widths"] or (16, 32, 64)))
    return (
        f"widths {widths}, blocks {spec['blocks_per_stage'] or 2}, {spec['epochs']} epochs, "
        f"batch {spec['batch_size']}, rate {spec['learning_rate']:g}, warm-up {spec['warmup']}, "
        f"decay {spec['weight_decay']:g}, {spec['precision']}"
    )


TABLES = {
    "quick": partial(claim_rows, "quick"),
    "quick-until-decided": partial(claim_rows, "quick-until-decided"),
    "depth": partial(claim_rows, "depth"),
    "learning-rates": partial(claim_rows, "learning-rates"),
    "cpu-record": cpu_record,
    "transformers": partial(transformers, "transformers"),
    "transformer-placement": partial(transformers, "transformer-placement"),
    "cifar10-30-epochs": thirty_epochs,
    "cifar10-learning-rates": learning_rates,
    "cifar10-first": partial(first, "cifar10-first"),
    "he2016": partial(first, "he2016"),
    "cifar10-fp32": plain_float32,
    "bird-and-aeroplane": bird_and_aeroplane,
}
"""{study: its rows, as they stand in its README}."""


def lacking(rows: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The rows that a page does not have."""
    pages = {study: (RESULTS / study / "README.md").read_text("utf-8") for study in rows}
    found = {study: [row for row in of if row not in pages[study]] for study, of in rows.items()}
    return {study: missing for study, missing in found.items() if missing}


def main() -> int:
    rows = {study: make() for study, make in TABLES.items()}
    for study, of in rows.items():
        print(f"\n{study}\n" + "\n".join(of))
    missing = lacking(rows)
    for study, of in missing.items():
        print(f"\nNot in docs/results/{study}/README.md:\n" + "\n".join(of))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
