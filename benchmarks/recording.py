"""Measures recordings: seconds to load, sum up, judge and draw them, and the megabytes they take.

    python benchmarks/recording.py [--parts times sizes] [--before OTHER/src] [--rounds 3]

Times: synthetic recordings, written as a watcher writes them (the default intervals, a write every
250 steps, no budget), are read in a fresh process for each round, by these sources and, with
--before, by others, in turns. Importing and a first small recording are not in the times. Sizes: a
network of batch norms is watched for as many steps; steps that record nothing are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import Spread, Table, hardware_line, keep, load_average, ratio, say, warn_if_busy

HERE = Path(__file__).parents[1] / "src"
LAYERS, STEPS = (15, 60, 240), (100, 1_000, 10_000)
NETWORKS = ((15, 500), (20, 560), (53, 26_560), (80, 45_000))  # layers, channels of all of them
SIZE_STEPS = (200, 1_000, 10_000)
CHANNELS, WRITE_EVERY = 32, 250
MOMENTS = ("batch_mean", "batch_var", "running_mean", "running_var", "weight", "bias")
LIMIT, SLOW = 60, 10  # seconds of a process; and of one that is not repeated
OPERATIONS = ("load", "summary", "read_history", "report")


def write(path: Path, layers: int, steps: int) -> None:
    """Write a synthetic recording of batch norms."""
    from normscope.records.recording_header import BINS, FRAME, Cost, Header, LayerInfo
    from normscope.records.recording_parts import Batch, FilePart
    from normscope.watching.attach import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY

    draw = np.random.default_rng(0)
    infos = [
        LayerInfo(f"layer{k}.bn", "BatchNorm2d", "batch", CHANNELS, eps=1e-5, momentum=0.1,
                  affine=True, tracks=True, activation="relu")
        for k in range(layers)
    ]  # fmt: skip
    header = Header("Synthetic", "optimizer step", {}, infos, {}, "cpu")
    part = FilePart(path, header)
    for start in range(1, steps + 1, WRITE_EVERY):
        span = range(start, min(start + WRITE_EVERY, steps + 1))
        at = {
            kind: np.array([step for step in span if due(step)])
            for kind, due in (
                ("moments", EVERY), ("gradients", GRADIENTS_EVERY), ("histograms", HISTOGRAMS_EVERY)
            )
        }  # fmt: skip
        blocks = {kind: {} for kind in at}
        for info in infos:
            for kind, names in (
                ("moments", MOMENTS),
                ("gradients", ("weight_gradient", "bias_gradient")),
            ):  # fmt: skip
                for name in names:
                    values = draw.uniform(0.5, 2, (len(at[kind]), CHANNELS))
                    blocks[kind][info.name, name] = values.astype("<f4")
            rows = len(at["moments"])
            blocks["moments"][info.name, "values_per_channel"] = np.full(rows, 128)
            blocks["moments"][info.name, "training"] = np.ones(rows, np.bool_)
            blocks["moments"][info.name, "num_batches_tracked"] = at["moments"]
            norms = draw.uniform(0.5, 2, len(at["gradients"])).astype("<f4")
            blocks["gradients"][info.name, "output_gradient_norm"] = norms
            rows = len(at["histograms"])
            counts = draw.integers(0, 500, (rows, CHANNELS, BINS + 2)).astype("<u2")
            frame = np.array([0, 1, 1, 0, -4.5, 4.5], "<f4")[None, :, None]
            blocks["histograms"][info.name, "histogram"] = counts
            tiled = np.broadcast_to(frame, (rows, len(FRAME), CHANNELS))
            blocks["histograms"][info.name, "histogram_frame"] = tiled
        header.cost, header.complete = Cost(1.0, 100.0, span[-1]), span[-1] == steps
        part.write(Batch(header, [(at[k], arrays) for k, arrays in blocks.items() if len(at[k])]))


def once(path: Path, small: Path, operations: Sequence[str]) -> None:
    """Print the seconds of operations on a recording, each as it is done, in this process."""
    from normscope import Recording
    from normscope.judge.history import read_history

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        calls = {
            "load": lambda recording: None,
            "summary": lambda recording: recording.summary(),
            "read_history": read_history,
            "report": lambda recording: recording.report(page),
        }
        for operation in operations:
            calls[operation](Recording.load(small))
            begin = time.perf_counter()
            calls[operation](Recording.load(path))
            print(time.perf_counter() - begin, flush=True)


def child(source: Path, path: Path, small: Path, operations: Sequence[str]) -> list[float]:
    """Seconds of the operations in a fresh process with these sources; of fewer where all together
    take more than LIMIT.
    """
    command = [sys.executable, __file__, "--once", str(path), str(small), *operations]
    paths = os.pathsep.join([str(source), str(HERE.parent / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, check=True, timeout=LIMIT
        )
        out = done.stdout
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
    return [float(line) for line in out.split()]


def turns(
    sources: dict[str, Path], path: Path, small: Path, options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """{side: the seconds of the operations in each round}; rounds end early for a slow side."""
    taken: dict[str, list[list[float]]] = {side: [] for side in sources}
    for number in range(options.rounds):
        for side in sorted(sources, reverse=bool(number % 2)):
            if not taken[side] or sum(taken[side][0]) < SLOW:
                taken[side].append(child(sources[side], path, small, options.operations))
    return taken


def times(options: argparse.Namespace) -> Table:
    """The table of seconds; each row is printed when it is measured."""
    sources = {"after": HERE, **({"before": options.before} if options.before else {})}
    header = ("recording", "operation", *(f"{side}, s" for side in sources))
    header += ("before / after",) if options.before else ()
    rows, values = [], {}
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.sqlite"
        write(small, 2, 10)
        for layers, steps in itertools.product(options.layers, options.steps):
            path = Path(folder) / f"{layers}x{steps}.sqlite"
            write(path, layers, steps)
            name = f"{layers} layers x {steps:,} steps, {path.stat().st_size / 1e6:.1f} MB"
            taken = turns(sources, path, small, options)
            path.unlink()
            for index, operation in enumerate(options.operations):
                seconds = {
                    side: [each[index] for each in rounds if len(each) > index]
                    for side, rounds in taken.items()
                }
                rows.append(row((name, operation), seconds))
                values[f"{layers}x{steps} {operation}"] = seconds
    notes = [
        f"{CHANNELS} channels a layer. The operations of a process that took more than {LIMIT} s "
        f"in all are left out. {hardware_line('cpu')}."
    ]
    return Table("Reading a recording", header, rows, notes, values)


def row(names: tuple[str, ...], seconds: dict[str, list[float]]) -> tuple[str, ...]:
    """The cells of an operation; prints them."""
    cells = [Spread.of(each).text(".3f") if each else "-" for each in seconds.values()]
    if "before" in seconds:
        pairs = min(map(len, seconds.values()))
        ratios = [seconds[side][:pairs] for side in ("before", "after")]
        cells.append(ratio(*ratios).text(".1f") if pairs else "-")
    say(" | ".join((*names, *cells)))
    return (*names, *cells)


def size(path: Path, layers: int, channels: int, steps: int, budget: float | None) -> int:
    """Bytes of the recording of a network of batch norms of which half are twice as wide."""
    import torch

    from normscope.commands.watch import watch

    width = -(-channels // layers)
    model = torch.nn.ModuleList(
        torch.nn.BatchNorm1d(width // 2 if k % 2 else width + width // 2) for k in range(layers)
    )
    model.forward = lambda: sum(bn(torch.randn(4, bn.num_features)).square().sum() for bn in model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watcher = watch(model, path=path, budget=budget)
        session = watcher._session
        for step in range(1, steps + 1):
            if any(session._recorder.planned.due(step)):
                model().backward()
            else:
                session.steps += 1
            if step % WRITE_EVERY == 0:
                watcher.flush()
        watcher.close(quiet=True)
    return path.stat().st_size


def sizes(options: argparse.Namespace) -> Table:
    """The table of megabytes."""
    budgets = (20.0, None) if options.unlimited else (20.0,)
    rows, values = [], {}
    for layers, channels in NETWORKS:
        for steps in SIZE_STEPS:
            cells = []
            for budget in budgets:
                with tempfile.TemporaryDirectory() as folder:
                    found = size(Path(folder) / "r.sqlite", layers, channels, steps, budget)
                cells.append(f"{found / 1e6:.1f}")
                values[f"{layers}x{channels}x{steps} {budget}"] = found
            rows.append((f"{layers} layers, {channels:,} channels", f"{steps:,}", *cells))
            say(" | ".join(rows[-1]))
    header = ("network", "steps", *(f"budget {budget}, MB" for budget in budgets))
    return Table("Size of a recording", header, rows, [hardware_line("cpu")], values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", default=("times", "sizes"), choices=("times", "sizes")
    )
    parser.add_argument("--before", type=Path, help="the src folder of another version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--operations", nargs="+", default=OPERATIONS, choices=OPERATIONS)
    parser.add_argument("--unlimited", action="store_true", help="sizes without a budget, too")
    parser.add_argument("--out", type=Path, help="a folder for the numbers as JSON lines")
    parser.add_argument("--once", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        path, small, *operations = options.once
        once(Path(path), Path(small), operations)
        return
    warn_if_busy()
    for part in options.parts:
        load = load_average()
        table = {"times": times, "sizes": sizes}[part](options)
        print(table.markdown(), flush=True)
        if options.out is not None:
            keep(table, options.out, f"recording-{part}", "cpu", load)


if __name__ == "__main__":
    main()
