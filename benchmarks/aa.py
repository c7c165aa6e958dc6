"""A/A: how often claims find a difference where there is none, on real runs.

python benchmarks/aa.py [--out DIR] [--runs 40] [--splits 1000] [--study FILE] [--sequential]

Trains a pool of runs of one arm (batch normalization on the digits; only the seeds differ), draws
two groups from it at random again and again, calls one of them the reference, and judges every
claim. Whatever is `supported` or `contradicted` then is a false verdict; each test is made to give
one in 20 at most. With --sequential, runs are paired at random and judged after every seed from 3
to half of the pool, as somebody does who waits for a verdict. The runs are kept in DIR: the same
command goes on where it was interrupted, and does not train what is there.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from common import Table, hardware_line, keep, load_average
from scipy.stats import binomtest

import normscope
from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence
from normscope.judge.verdicts import Verdict, marked
from normscope.records.run import RunRecord

SIZES = (3, 5, 10)
"""Runs of each arm: what people have."""

FALSE = ("supported", "contradicted")
ARM, REFERENCE = "batch", "none"


def pool(study: Path, folder: Path, runs: int) -> tuple[RunRecord, ...]:
    """The runs of one arm, trained where they are not there yet."""
    found = normscope.study(study, seeds=runs, out=folder)
    ended = tuple(run for run in found.runs if run.status == "finished")
    if len(ended) < runs:
        raise SystemExit(
            f"{runs - len(ended)} of {runs} runs did not finish; the same command tries them again."
        )
    return ended


def splits(
    runs: Sequence[RunRecord], size: int, count: int, draw: np.random.Generator, *, paired: bool
) -> Iterator[list[RunRecord]]:
    """Two groups of `size` runs, drawn without replacement, `count` times; the second is renamed to
    the reference.

    Unpaired they keep their seeds, of which no two are equal. Paired, both groups get the seeds 0,
    1, ..., so that runs are paired at random.
    """
    for _ in range(count):
        chosen = [runs[place] for place in draw.permutation(len(runs))[: 2 * size]]
        yield [
            _as(run, ARM if place < size else REFERENCE, place % size if paired else run.seed)
            for place, run in enumerate(chosen)
        ]


def _as(run: RunRecord, norm: str, seed: int) -> RunRecord:
    return replace(run, spec={**run.spec, "norm": norm, "seed": seed})


@dataclass
class Judged:
    """The verdicts on many splits."""

    outcomes: dict[tuple[str, str], Counter[str]] = field(
        default_factory=dict
    )  # {(code, name): {verdict: splits}}
    false: list[int] = field(default_factory=list)  # claims with a false verdict, for each split

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Count the verdicts on one split."""
        tested = [each for each in verdicts if each.p is not None]
        for verdict in tested:
            self.outcomes.setdefault((verdict.code, verdict.name), Counter())[verdict.outcome] += 1
        self.false.append(sum(verdict.outcome in FALSE for verdict in tested))


def verdicts_between(runs: Sequence[RunRecord]) -> list[Verdict]:
    """The verdicts of the claims that set the two groups against each other: those of one family,
    in which whatever is found is false.
    """
    evidence = Evidence(runs, "", ARM, REFERENCE)
    asked = [c for c in claims() if c.concerns(evidence) and c.arms(evidence) == (ARM, REFERENCE)]
    return marked([claim.judge(evidence) for claim in asked])


def judged(drawn: Iterator[list[RunRecord]]) -> Judged:
    """Every claim judged on every split."""
    found = Judged()
    for runs in drawn:
        found.add(verdicts_between(runs))
    return found


def table(runs: Sequence[RunRecord], size: int, count: int, *, paired: bool) -> Table:
    """The share of false verdicts of each claim at one size."""
    # a generator for each table, so that a table does not depend on those before it
    draw = np.random.default_rng([size, int(paired)])
    found = judged(splits(runs, size, count, draw, paired=paired))
    rows, values = [], {}
    for (code, name), outcomes in found.outcomes.items():
        total, wrong = outcomes.total(), sum(outcomes[each] for each in FALSE)
        low, high = binomtest(wrong, total).proportion_ci(0.95, method="exact")
        values[code] = {**outcomes, "false": wrong / total, "interval": (low, high)}
        shares = [
            f"{100 * outcomes[each] / total:.1f}%"
            for each in (*FALSE, "no difference", "cannot tell")
        ]
        rows.append(
            (
                f"{code} {name}",
                f"{100 * wrong / total:.1f}%",
                f"{100 * low:.1f} to {100 * high:.1f}%",
                *shares,
                f"{total:,}",
            )
        )
    some = sum(number > 0 for number in found.false) / count
    note = (
        f"Of {len(rows)} claims {np.mean(found.false):.2f} have a false verdict on average; "
        f"{100 * some:.1f}% of the {count:,} splits have one or more."
    )
    return Table(
        title=f"n = {size} per arm, {'paired at random' if paired else 'unpaired'}",
        header=("claim", "false", "95% interval", *FALSE, "no difference", "cannot tell", "splits"),
        rows=rows,
        notes=[note],
        values={
            "size": size,
            "paired": paired,
            "splits": count,
            "some_false": some,
            "claims": values,
        },
    )


@dataclass
class Looks:
    """What somebody meets who judges after every seed, in many studies."""

    false: Counter[str] = field(default_factory=Counter)  # {code: studies with a false verdict}
    tested: set[str] = field(default_factory=set)  # codes
    standing: int = 0  # studies with a false verdict that ever stood among all claims
    studies: int = 0

    def add(self, looks: Iterator[Sequence[Verdict]]) -> None:
        """Count one study, of the verdicts at each look."""
        false, stood = set[str](), False
        for verdicts in looks:
            tested = [each for each in verdicts if each.values]
            wrong = [each for each in tested if each.outcome in FALSE]
            self.tested |= {each.code for each in tested if each.e is not None}
            false |= {each.code for each in wrong}
            stood = stood or any(each.stands for each in wrong)
        self.false.update(false)
        self.standing += stood
        self.studies += 1


def looks_at(runs: Sequence[RunRecord], most: int) -> Iterator[list[Verdict]]:
    """The verdicts on the first 3, 4, ... seeds."""
    for seeds in range(SIZES[0], most + 1):
        yield verdicts_between([run for run in runs if run.seed < seeds])


def sequential_table(runs: Sequence[RunRecord], count: int) -> Table:
    """The share of studies in which a claim ever has a false verdict."""
    most, draw, found = len(runs) // 2, np.random.default_rng(7), Looks()
    for drawn in splits(runs, most, count, draw, paired=True):
        found.add(looks_at(drawn, most))
    shares = {code: found.false[code] / count for code in sorted(found.tested)}
    rows = [(code, f"{100 * share:.1f}%") for code, share in shares.items()]
    mean = float(np.mean(list(shares.values())))
    return Table(
        title=f"judged after every seed from {SIZES[0]} to {most}, {count} studies",
        header=("claim", "ever false"),
        rows=rows,
        notes=[
            f"Mean of the {len(shares)} claims: {100 * mean:.1f}%. Studies with a false verdict "
            f"that ever stands among all claims (e-BH): {100 * found.standing / count:.1f}%."
        ],
        values={"claims": shares, "standing": found.standing / count, "studies": count},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("normscope-runs/aa"), help="folder of the pool"
    )
    parser.add_argument("--runs", type=int, default=40, help="runs in the pool")
    parser.add_argument("--splits", type=int, default=1000, help="random splits for each table")
    parser.add_argument(
        "--study", type=Path, default=Path(__file__).with_name("aa.toml"), help="of the pool"
    )
    parser.add_argument("--sequential", action="store_true", help="judge after every seed")
    options = parser.parse_args()
    if options.runs < 2 * max(SIZES):
        parser.error(
            f"--runs is {options.runs}; expected {2 * max(SIZES)} or more, for two groups of "
            f"{max(SIZES)}"
        )
    load = load_average()
    runs = pool(options.study, options.out, options.runs)
    final = [100 * (run.final("test_accuracy") or 0) for run in runs]
    print(
        f"\n{hardware_line('cpu')}\nPool: {len(runs)} runs, final test accuracy "
        f"{np.mean(final):.2f}% ± {np.std(final, ddof=1):.2f} (standard deviation)\n"
    )
    if options.sequential:
        made = sequential_table(runs, options.splits)
        print(made.markdown(), flush=True)
        keep(made, options.out / "results", "aa", "cpu", load)
        return
    for paired in (False, True):
        for size in SIZES:
            made = table(runs, size, options.splits, paired=paired)
            print(made.markdown(), end="\n\n", flush=True)
            keep(made, options.out / "results", "aa", "cpu", load)


if __name__ == "__main__":
    main()
