"""What it costs to hand runs to Ray: start-up, time per run, and growth with the number of runs.

python benchmarks/scaling_out.py [--runs 8 16 32 64] [--rounds 3] [--out DIR]

Every study is trained in a fresh process: by this machine's own worker processes, by a Ray that is
started for it, and by the same with records that travel through Ray, as where the folder is not
shared. The runs are small (digits, three epochs of a narrow network), so that what is seen is the
overhead. On one machine Ray has the same cores as the processes: nothing here is a speed-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common import Spread, Table, hardware_line, interleave, keep, load_average, warn_if_busy

WAYS = {
    "local": "processes of this machine",
    "ray": "Ray, shared folder",
    "ray-apart": "Ray, records through Ray",
}


def measure(way: str, count: int) -> dict[str, float]:
    """Train a study in this process; returns seconds by stage."""
    from normscope.studies.environment import usable_cores
    from normscope.studies.executors.local import ProcessExecutor
    from normscope.studies.executors.ray import RayExecutor
    from normscope.studies.grid import lay_out
    from normscope.studies.options import GridOptions
    from normscope.studies.runner import RunTask
    from normscope.studies.spec import Recipe

    options = GridOptions(
        norms=("batch",), learning_rates=(0.1,), seeds=1, epochs=3, device="cpu",
        precision="fp32", fusion="off", recipe=Recipe(widths=(4, 8, 8), blocks_per_stage=1),
    )  # fmt: skip
    spec = lay_out(options).specs[0]
    heard: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        specs = [replace(spec, seed=seed) for seed in range(count)]
        tasks = [RunTask(each, Path(folder) / "runs" / each.name) for each in specs]
        begin = time.perf_counter()
        executor = (
            ProcessExecutor(usable_cores())
            if way == "local"
            else RayExecutor("local", shared=way == "ray")
        )
        connected = time.perf_counter()
        results = list(executor.run(tasks, lambda _: heard.append(time.perf_counter())))
        end = time.perf_counter()
        if isinstance(executor, RayExecutor):
            executor.close()
    assert [result.status for _, result in results] == ["finished"] * count
    return {"connect": connected - begin, "first": heard[0] - connected, "rest": end - heard[0]}


def measured(way: str, count: int) -> dict[str, float]:
    """The same in a process of its own."""
    told = subprocess.run(
        [sys.executable, __file__, "--one", way, "--runs", str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout.splitlines()[-1])


def growth(counts: list[int], rounds: int) -> Table:
    """Seconds by way and number of runs."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {
        (way, count): [] for way in WAYS for count in counts
    }

    def contender(way: str, count: int) -> Callable[[], float]:
        def train() -> float:
            stages = measured(way, count)
            found[way, count].append(stages)
            return sum(stages.values())

        return train

    contenders = {f"{way} {count}": contender(way, count) for way, count in found}
    totals = interleave(contenders, rounds, warm_up=0)
    rows = []
    for (way, count), stages in found.items():
        seconds = {name: Spread.of([each[name] for each in stages]) for name in stages[0]}
        rows.append(
            (
                WAYS[way],
                str(count),
                seconds["connect"].text(".1f"),
                seconds["first"].text(".1f"),
                Spread.of([1000 * each["rest"] / count for each in stages]).text(".0f"),
                Spread.of(totals[f"{way} {count}"]).text(".1f"),
            )
        )
    return Table(
        title="Small runs",
        header=(
            "trained by",
            "runs",
            "connect, s",
            "until the first trains, s",
            "then per run, ms",
            "in all, s",
        ),
        rows=rows,
        notes=_slopes(totals, counts),
        values={"stages": {f"{way} {count}": stages for (way, count), stages in found.items()}},
    )


def _slopes(totals: dict[str, list[float]], counts: list[int]) -> list[str]:
    """What a further run costs, by the medians of the smallest and the largest study."""
    low, high = min(counts), max(counts)
    if low == high:
        return []
    seconds = {
        way: (
            statistics.median(totals[f"{way} {high}"]) - statistics.median(totals[f"{way} {low}"])
        )
        / (high - low)
        for way in WAYS
    }
    told = "; ".join(f"{WAYS[way]} {1000 * each:.0f} ms" for way, each in seconds.items())
    return [f"A further run, from {low} to {high}: {told}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[8, 16, 32, 64], help="runs of each study"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument(
        "--out", type=Path, default=Path("normscope-runs/scaling-out"), help="where the numbers go"
    )
    parser.add_argument(
        "--one", choices=list(WAYS), help="train one study here, and print its seconds"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.runs[0])))
        return
    load = warn_if_busy()
    table = growth(options.runs, options.rounds)
    print(f"{hardware_line('cpu')}; load average before {load}, after {load_average()}\n")
    print(table.markdown())
    keep(table, options.out, "scaling_out", "cpu", load)


if __name__ == "__main__":
    main()
